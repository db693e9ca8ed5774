"""Fidelity against bits an image: a line for each arm through its codebooks.

Enters: an `Ablation`. Leaves: an SVG file's text, light as a card in any page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from alitok.apps.ablate.numbers import Ablation, summary
from alitok.report.page import needs_libraries
from alitok.report.svg import svg_settings, svg_text

# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that a light card swallows and with a
# dark red; the markers tell the arms apart without any colour.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07800", "#3a9bd1", "#555555", "#000000", "#882255")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "h")
_LETTERS = 8.0  # points, of the labels
# Where a label may stand from its point, in points: nearest first.
_PLACES = [(dx * reach, dy * reach) for reach in (0.9, 1.7, 2.5) for dx, dy in ((7, 5), (-7, 5), (7, -5), (-7, -5))]
_PLACES[4:4] = [(0, 8), (0, -8), (9, 0), (-9, 0)]


class _Mark(NamedTuple):
    """A mean point with its label."""

    bits: float
    psnr: float
    text: str
    colour: str


@needs_libraries
def plot(ablation: Ablation) -> str:
    """The plot as SVG with a white ground; the same text for the same numbers.

    Every training is a faint point, every mean a strong one; what is not finite is left out.

    Raises:
        AlitokError: matplotlib is missing.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(svg_settings("ablation")):
        figure = Figure(figsize=(6.0, 4.2 + 0.17 * len(ablation.arms)), layout="constrained")
        axes = figure.add_subplot()
        marks = [mark for number, arm in enumerate(ablation.arms) for mark in _draw(axes, ablation, arm, number)]
        axes.set(xlabel="bits an image (fewer to the left)", ylabel="PSNR, dB (nearer to the image upwards)")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.09)
        if marks:
            figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, ncols=1)
            figure.draw_without_rendering()  # the layout decides where points are, and so where labels have room
            _label(axes, marks, [(cell.bits, cell.psnr) for cell in ablation.cells])
        else:
            axes.text(0.5, 0.5, "no cell is finished", ha="center", transform=axes.transAxes)
        return svg_text(figure, facecolor="white")


def _draw(axes: Any, ablation: Ablation, arm: str, number: int) -> list[_Mark]:
    """An arm's trainings, and its means joined by rising codebook, which are returned."""
    colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
    sizes, marks = ablation.sizes(arm), []
    for size in sizes:
        cells = ablation.of(arm, size)
        if len(cells) > 1:
            axes.scatter(*_columns((c.bits, c.psnr) for c in cells), s=14, c=colour, marker=marker, alpha=0.3, lw=0)
        bits, psnr = (summary(getattr(cell, name) for cell in cells) for name in ("bits", "psnr"))
        if bits is not None and psnr is not None:
            marks.append(_Mark(bits.mean, psnr.mean, arm if len(sizes) == 1 else f"{arm} {size:,}", colour))
    if marks:
        points = _columns((mark.bits, mark.psnr) for mark in marks)
        label = f"{arm}: {ablation.arms[arm]}"
        axes.plot(*points, label=label, color=colour, marker=marker, ms=7, lw=1.4, mec="white", mew=0.5)
    return marks


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    some = list(points)
    return [bits for bits, _ in some], [psnr for _, psnr in some]


def _label(axes: Any, marks: list[_Mark], faint: Iterable[tuple[float, float]]) -> None:
    """Each point's label at the first place where it hides no point and no label; else where it hides least."""
    from matplotlib.colors import to_rgb

    scale = 72 / axes.figure.dpi
    centres = [axes.transData.transform((mark.bits, mark.psnr)) * scale for mark in marks]
    taken = [(x - 4.0, y - 4.0, x + 4.0, y + 4.0) for x, y in centres]
    finite = [point for point in faint if all(map(math.isfinite, point))]
    taken += [(x - 2.0, y - 2.0, x + 2.0, y + 2.0) for x, y in (axes.transData.transform(p) * scale for p in finite)]
    for mark, (x, y) in zip(marks, centres, strict=True):
        width = 0.6 * _LETTERS * len(mark.text)
        boxes = [_box(x + dx, y + dy, width, dx) for dx, dy in _PLACES]
        hidden = [sum(_shared(box, other) for other in taken) for box in boxes]
        best = min(range(len(boxes)), key=lambda place: (round(hidden[place], 6), place))
        taken.append(boxes[best])
        dx, dy = _PLACES[best]
        axes.annotate(
            mark.text,
            (mark.bits, mark.psnr),
            (dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right" if dx < 0 else "center",
            va="center",
            fontsize=_LETTERS,
            fontweight="bold",
            color=[0.75 * part for part in to_rgb(mark.colour)],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )


_Box = tuple[float, float, float, float]


def _box(x: float, y: float, width: float, side: float) -> _Box:
    """Left, bottom, right, top of a label that stands to the right, to the left or in the middle of x."""
    left = x if side > 0 else x - width if side < 0 else x - width / 2
    return left, y - _LETTERS / 2, left + width, y + _LETTERS / 2


def _shared(one: _Box, other: _Box) -> float:
    """The area that two boxes have in common."""
    return max(0.0, min(one[2], other[2]) - max(one[0], other[0])) * max(
        0.0, min(one[3], other[3]) - max(one[1], other[1])
    )
