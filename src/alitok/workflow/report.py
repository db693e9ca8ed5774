"""The report of a run: one HTML file that opens anywhere, without a network.

Enters: a `Report`, with all its numbers and pictures (uint8, N 3 h w). Leaves: the file. Pictures stand in it as PNG
contact sheets, curves as inline SVG; it holds no script and fetches nothing. `report.html` beside this module is its
form.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes
from alitok.core.images import grid, png_bytes

_TEMPLATE = Path(__file__).with_name("report.html")
# How many pictures share a sheet, and how wide each is shown at least, in CSS pixels. On a wide screen three sheets of
# reconstructions or samples, or two of neighbours, stand beside one another; on a phone one.
_TRIPLES, _TRIPLE_WIDTH = 4, 96
_SAMPLE_COLUMNS, _SAMPLE_WIDTH = 5, 64
_PAIRS, _PAIR_WIDTH = 5, 80
# Distinguishable for the colour-blind (Okabe and Ito) and dark enough for a light card.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")


@dataclass(frozen=True)
class Curve:
    """One panel of curves: `lines` holds (x values, y values) by name."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, tuple[list[float], list[float]]]
    log_y: bool = False


@dataclass(frozen=True)
class Reconstructions:
    """Pictures and what the two decoders make of them, each (N, 3, h, w) uint8."""

    originals: np.ndarray
    stage1: np.ndarray
    stage2: np.ndarray
    heading: str


@dataclass(frozen=True)
class ClassSamples:
    """Samples of one class, (n, 3, h, w) uint8."""

    name: str
    images: np.ndarray


@dataclass(frozen=True)
class Neighbours:
    """Samples and the training picture nearest to each, (N, 3, h, w) uint8, with their distances (N,)."""

    samples: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Stage:
    """What one training took."""

    name: str
    steps: int
    seconds: float
    seconds_per_step: float
    images_per_second: float
    parameters: int


@dataclass(frozen=True)
class Report:
    """Everything that is shown.

    Attributes:
        title: of the page.
        summary: one or two sentences.
        command: the exact command.
        configuration: the resolved configuration as text.
        numbers: (name, value, what it means or what to compare it with).
        stages: the trainings.
        reconstructions: of held-out pictures.
        samples: by class.
        neighbours: of some samples.
        curves: panels.
        environment: versions, device, threads, commit, date.
    """

    title: str
    summary: str
    command: str
    configuration: str
    numbers: list[tuple[str, str, str]]
    stages: list[Stage]
    reconstructions: Reconstructions
    samples: list[ClassSamples]
    neighbours: Neighbours | None
    curves: list[Curve]
    environment: dict[str, str]


def write_report(path: Path, report: Report) -> None:
    """Write `report` as one HTML file, whole or not at all.

    Raises:
        AlitokError: jinja2 or matplotlib is missing.
    """
    try:
        import jinja2
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AlitokError(f"Writing a report needs {error.name}; install it with pip install 'alitok[demo]'.") from None

    curves = []
    for number, curve in enumerate(report.curves):
        # The salt makes identifiers inside the SVG, and so the file, the same for the same report, yet unlike those
        # of the next panel.
        salt = f"panel {number}"
        with mpl.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": salt,
                "font.size": 9,
                "text.parse_math": False,
                "text.usetex": False,
            }
        ):
            curves.append(_svg(curve, Figure))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": _duration, "significant": _significant}
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        reconstructions=_reconstruction_sheets(report.reconstructions),
        samples=[(entry.name, _sample_sheet(entry)) for entry in report.samples],
        neighbours=_neighbour_sheets(report.neighbours) if report.neighbours is not None else [],
        curves=curves,
    )
    # Names of folders may hold bytes that are no text.
    write_bytes(path, page.encode("utf-8", "replace"))


@dataclass(frozen=True)
class _Sheet:
    """A grid of pictures as one data address, with the size in CSS pixels to show it at."""

    address: str
    width: int
    height: int
    alt: str
    labels: tuple[str, ...] = ()


def _sheet(images: np.ndarray, columns: int, width: int, alt: str, labels: Sequence[str] = ()) -> _Sheet:
    """Lay out `images` (N, 3, h, w), each enlarged by the smallest whole number that makes it `width` wide."""
    pixels = grid(images, columns)
    scale = math.ceil(width / images.shape[3])
    address = "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode()
    return _Sheet(address, pixels.shape[2] * scale, pixels.shape[1] * scale, alt, tuple(labels))


def _reconstruction_sheets(shown: Reconstructions) -> list[_Sheet]:
    """Rows of three: picture, stage 1, stage 2."""
    triples = np.stack([shown.originals, shown.stage1, shown.stage2], axis=1)
    sheets = []
    for start in range(0, len(triples), _TRIPLES):
        some = triples[start : start + _TRIPLES]
        alt = f"{len(some)} pictures, each with its stage 1 and stage 2 reconstruction"
        images = some.reshape(-1, *some.shape[2:])
        sheets.append(_sheet(images, 3, _TRIPLE_WIDTH, alt, ("picture", "stage 1", "stage 2")))
    return sheets


def _sample_sheet(entry: ClassSamples) -> _Sheet | None:
    if len(entry.images) == 0:
        return None
    columns = min(len(entry.images), _SAMPLE_COLUMNS)
    return _sheet(entry.images, columns, _SAMPLE_WIDTH, f"{len(entry.images)} samples of class {entry.name}")


def _neighbour_sheets(shown: Neighbours) -> list[_Sheet]:
    """Two rows: samples, and below each its nearest training picture."""
    sheets = []
    for start in range(0, len(shown.samples), _PAIRS):
        some = slice(start, start + _PAIRS)
        samples, nearest = shown.samples[some], shown.nearest[some]
        alt = f"{len(samples)} samples above their nearest training pictures"
        labels = [f"{distance:.3f}" for distance in shown.distances[some]]
        images = np.concatenate([samples, nearest])
        sheets.append(_sheet(images, len(samples), _PAIR_WIDTH, alt, labels))
    return sheets


def _svg(curve: Curve, figure_class: Callable[..., Any]) -> str:
    """The panel as an SVG element without a title, dark on nothing: it stands on a light card."""
    figure = figure_class(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    lines = {name: points for name, points in curve.lines.items() if len(points[0])}
    for number, (name, (x, y)) in enumerate(lines.items()):
        marker = "o" if len(x) == 1 else None
        axes.plot(x, y, label=name, color=_COLOURS[number % len(_COLOURS)], linewidth=1.3, marker=marker)
    if curve.log_y and any(value > 0 for _, y in lines.values() for value in y):
        _log_axis(axes)
    axes.set(xlabel=curve.x_label, ylabel=curve.y_label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing recorded", ha="center", transform=axes.transAxes)
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _inline(buffer.getvalue())


def _log_axis(axes: Any) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))


def _inline(svg: str) -> str:
    """The svg element alone, as HTML takes it: no name spaces, nor identifiers that would repeat in the next panel."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    return svg.replace("xlink:href", "href")


def _duration(seconds: float) -> str:
    """Such as `3 h 04 min`, `5 min 12 s` or `8.3 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def _significant(value: float) -> str:
    """Three significant digits, or all of a whole number that has more: `0.0210`, `4.57`, `1,234`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
