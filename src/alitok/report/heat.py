"""Heat maps of what depends on what, for files and for reports.

Enter: matrices with a row or a column for each code or patch. Leave: the bytes of PNG files, and images
(3, h, w) uint8. Shapes: G grid side, P = G * G patches, K prefix, T = K + P codes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from alitok.metrics.dependency import Raster
from alitok.report.page import needs_libraries
from alitok.report.sheets import MAP_COLOURS, Sheet, coloured, png_address

_MARK = "#35d0e8"  # told apart from every colour of the map
_MARK_RGB = (0x35, 0xD0, 0xE8)
_ROOT = 0.5  # colours follow this power of a value, so that weak influence is seen beside strong
_INCHES, _DOTS = 5.6, 160  # of a panel; and dots an inch of the file
_CSS_DOTS = 92  # at which the report shows it
_MOST_TICKS = 16  # rows of patches that an axis names
_BAR_TICKS = 5
_MARKED = 0.2  # share of a cell that the line through it covers
_CELL = 12  # pixels of one patch in the image of a single code

Axis = Literal["code", "patch"]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """One matrix as it is drawn.

    Attributes:
        title: above it.
        values: (rows, columns) at least 0; NaN stands grey.
        rows, columns: what they are.
        row_label, column_label: what they are, in words.
        meaning: of a colour.
        raster: where codes and patches stand.
        limit: the value that the brightest colour stands for; None = the largest there is.
    """

    title: str
    values: np.ndarray
    rows: Axis
    columns: Axis
    row_label: str
    column_label: str
    meaning: str
    raster: Raster
    limit: float | None = None

    @property
    def top(self) -> float:
        """What the brightest colour stands for."""
        if self.limit is not None:
            return self.limit
        there = self.values[np.isfinite(self.values)]
        return max(float(there.max(initial=0.0)), 1e-12)


@needs_libraries
def draw_maps(maps: Sequence[HeatMap]) -> bytes:
    """Panels side by side as a PNG file; a dashed line marks each code's own patch.

    Raises:
        AlitokError: matplotlib is missing.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {"font.size": 9, "text.parse_math": False, "text.usetex": False}
    with mpl.rc_context(settings):
        heights = [_INCHES * 0.82 * min(max(len(each.values) / each.values.shape[1], 0.6), 1.6) for each in maps]
        figure = Figure(figsize=(_INCHES * len(maps), max(heights) + 0.8), layout="constrained")
        for number, each in enumerate(maps):
            _panel(figure, figure.add_subplot(1, len(maps), number + 1), each)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _panel(figure: Any, axes: Any, shown: HeatMap) -> None:
    import matplotlib as mpl
    from matplotlib.colors import PowerNorm

    colours = mpl.colormaps[MAP_COLOURS].with_extremes(bad="#bbbbbb")
    norm = PowerNorm(_ROOT, vmin=0, vmax=shown.top, clip=True)
    image = axes.imshow(shown.values, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    _mark_own(axes, shown)
    axes.set(title=shown.title, xlabel=shown.column_label, ylabel=shown.row_label)
    for axis, kind in ((axes.xaxis, shown.columns), (axes.yaxis, shown.rows)):
        places, names = _ticks(shown.raster, kind)
        axis.set_ticks(places, labels=names)
        if axis is axes.xaxis:
            axes.tick_params("x", rotation=90 if len(places) > 6 else 0)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    marked = shown.top * np.linspace(0, 1, _BAR_TICKS) ** (1 / _ROOT)  # evenly spaced along the bar
    bar.set_ticks(marked.tolist(), labels=[f"{value:.2g}" for value in marked])
    bar.set_label(shown.meaning)
    bar.outline.set_visible(False)


def _mark_own(axes: Any, shown: HeatMap) -> None:
    """A line through each code's own patch, and one where the prefix ends."""
    raster = shown.raster
    width = min(0.9, _MARKED * _INCHES * 72 / max(shown.values.shape))  # thinner than a cell, which it must not hide
    style = {"color": _MARK, "linewidth": width, "linestyle": (0, (3 / width, 2 / width))}
    codes = np.arange(raster.length)
    own = raster.cells() if "patch" in (shown.rows, shown.columns) else codes
    for some in (slice(0, raster.prefix), slice(raster.prefix, None)):
        along, across = (own[some], codes[some]) if shown.rows == "code" else (codes[some], own[some])
        axes.plot(along, across, **style)
    edge = raster.prefix - 0.5
    if raster.prefix and shown.rows == "code":
        axes.axhline(edge, color=_MARK, linewidth=0.7)
    if raster.prefix and shown.columns == "code":
        axes.axvline(edge, color=_MARK, linewidth=0.7)


def _ticks(raster: Raster, kind: Axis) -> tuple[list[int], list[str]]:
    """Where each row of patches begins."""
    first = raster.prefix if kind == "code" else 0
    rows = range(0, raster.grid, -(-raster.grid // _MOST_TICKS))
    places, names = [first + row * raster.grid for row in rows], [f"row {row}" for row in rows]
    if first:
        places, names = [0, *places], ["prefix", *names]
    return places, names


def image_of_code(values: np.ndarray, own: int, grid: int, top: float) -> np.ndarray:
    """The patches (P,) that move one code, where they stand in the image; its own patch has a frame.

    Returns:
        (3, h, h) uint8, in the colours of a map whose brightest stands for `top`.

    Raises:
        AlitokError: matplotlib is missing.
    """
    shares = (np.nan_to_num(values) / top).clip(0, 1) ** _ROOT
    large = coloured(shares.reshape(grid, grid)).repeat(_CELL, 1).repeat(_CELL, 2)
    row, column = np.divmod(own, grid) * np.array(_CELL)
    frame = large[:, row : row + _CELL, column : column + _CELL]
    inside = frame[:, 2:-2, 2:-2].copy()
    frame[:] = np.array(_MARK_RGB)[:, None, None]
    frame[:, 2:-2, 2:-2] = inside
    return large


def figure_sheet(png: bytes, alt: str) -> Sheet:
    """A drawn figure as it stands in a page."""
    width, height = (int.from_bytes(png[start : start + 4]) for start in (16, 20))  # of the PNG's header
    return Sheet(png_address(png), round(width * _CSS_DOTS / _DOTS), round(height * _CSS_DOTS / _DOTS), alt)
