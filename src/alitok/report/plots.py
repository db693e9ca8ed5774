"""Plots the curves of a report as SVG, for files and inside a page; the same curve gives the same text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

from alitok.report.html import needs_libraries
from alitok.report.model import Curve, Row, Table

# Okabe and Ito's colors, distinguishable for the color-blind, without the yellow, which vanishes on a light card;
# the markers distinguish the lines without any color.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07800", "#3a9bd1", "#555555", "#000000", "#882255")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "h")
_LETTERS = 8.0  # points, of the labels
_Box = tuple[float, float, float, float]  # left, bottom, right, top
# Where a label may stand from its point, in points: nearest first.
_PLACES = [(dx * reach, dy * reach) for reach in (0.9, 1.7, 2.5) for dx, dy in ((7, 5), (-7, 5), (7, -5), (-7, -5))]
_PLACES[4:4] = [(0, 8), (0, -8), (9, 0), (-9, 0)]


@needs_libraries()
def curve_svg(curve: Curve, salt: str = "curve") -> str:
    """The panel as an SVG file on white, without points that are not finite; AlitokError without matplotlib.

    Its identifiers depend on `salt`, to differ between the curves of one page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": salt}
    settings |= {"font.size": 9, "text.parse_math": False, "text.usetex": False}
    with mpl.rc_context(settings):
        size = (6.0, 4.2 + 0.17 * len(curve.lines)) if curve.wide else (4.6, 3.5 if curve.labels else 2.9)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        _lines(axes, curve)
        axes.set(xlabel=curve.x_label, ylabel=curve.y_label)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if not any(len(x) for x, _ in curve.lines.values()):
            axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
        elif curve.wide:
            figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, ncols=1)
        else:
            axes.legend(frameon=False)
        if curve.labels:
            axes.margins(0.09)
            figure.draw_without_rendering()  # the layout decides where points are, and so where labels have room
            _label(axes, curve)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata, facecolor="white")
    return buffer.getvalue()


def inline_svg(svg: str) -> str:
    """The svg element alone, as HTML takes it, without name spaces and addresses.

    Ids that nothing refers to are left out: the next figure of the page would have the same.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)
    element = re.sub(r' id="[\w.]+_\d+"', "", element)
    return element.replace("xlink:href", "href")


def points(curve: Curve) -> Table:
    """The numbers of all marked points; without rows if points are not marked."""
    rows = [
        Row(name, (label, f"{x:.4g}", f"{y:.4g}"))
        for name, (xs, ys) in (curve.lines if curve.markers else {}).items()
        for label, x, y in zip(_labels(curve, name), xs, ys, strict=True)
    ]
    return Table((curve.label_name, curve.x_label, curve.y_label), tuple(rows), "line", folded="Data points")


def _labels(curve: Curve, name: str) -> list[str]:
    return curve.labels.get(name) or [""] * len(curve.lines[name][0])


def _lines(axes: Any, curve: Curve) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    for number, (name, (x, y)) in enumerate(curve.lines.items()):
        colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
        if name in curve.scatter:
            axes.scatter(*curve.scatter[name], s=14, c=colour, marker=marker, alpha=0.3, lw=0)
        style: dict[str, Any] = {"marker": marker if curve.markers or len(x) == 1 else None, "lw": 1.3}
        if curve.markers:
            style |= {"ms": 7, "mec": "white", "mew": 0.5}
        if len(x):
            axes.plot(x, y, label=name, color=colour, **style)
    if curve.log_y and any(value > 0 for _, y in curve.lines.values() for value in y):
        axes.set_yscale("log")  # with plain numbers at 1, 2 and 5 of each decade
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))


def _label(axes: Any, curve: Curve) -> None:
    """Each point's label at the first place where it hides no point and no label, else where it hides least."""
    from matplotlib.colors import to_rgb

    def places(some: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """In typographic points, of the finite ones."""
        scale = 72 / axes.figure.dpi
        return [axes.transData.transform(point) * scale for point in some if all(map(math.isfinite, point))]

    marks = [
        ((x, y), text, COLOURS[number % len(COLOURS)])
        for number, (name, line) in enumerate(curve.lines.items())
        for x, y, text in zip(*line, _labels(curve, name), strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    centres = places(point for point, _, _ in marks)
    taken = [(x - 4.0, y - 4.0, x + 4.0, y + 4.0) for x, y in centres]
    faint = chain.from_iterable(zip(*line, strict=True) for line in curve.scatter.values())
    taken += [(x - 2.0, y - 2.0, x + 2.0, y + 2.0) for x, y in places(faint)]
    for (point, text, colour), (x, y) in zip(marks, centres, strict=True):
        width = 0.6 * _LETTERS * len(text)
        boxes = [_box(x + dx, y + dy, width, dx) for dx, dy in _PLACES]
        hidden = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = min(range(len(boxes)), key=lambda place: (round(hidden[place], 6), place))
        taken.append(boxes[best])
        dx, dy = _PLACES[best]
        axes.annotate(
            text,
            point,
            (dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right" if dx < 0 else "center",
            va="center",
            fontsize=_LETTERS,
            fontweight="bold",
            color=[0.75 * part for part in to_rgb(colour)],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )


def _box(x: float, y: float, width: float, side: float) -> _Box:
    """`side` > 0: right of x; < 0: left of it; 0: in the middle."""
    left = x if side > 0 else x - width if side < 0 else x - width / 2
    return left, y - _LETTERS / 2, left + width, y + _LETTERS / 2


def _overlap(one: _Box, other: _Box) -> float:
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
