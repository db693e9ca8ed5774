"""Heat maps over codes and patches, as PNG files and as images of a report.

P patches of a G x G grid, K prefix codes, T = K + P codes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from alitok.metrics.dependency import Raster
from alitok.report.html import needs_libraries
from alitok.report.images import COLOUR_MAP, InlineImage, coloured, png_address
from alitok.report.model import Axis, HeatMap

_OWN = "#35d0e8"  # unlike every color of the map
_ROOT = 0.5  # colors follow this power of a value, so that weak influence is visible beside strong
_INCHES, _DPI = 5.6, 160  # of a panel, and of the file
_CSS_DPI = 92  # in a page
_MOST_TICKS = 16  # rows of patches that an axis names
_BAR_TICKS = 5
_LINE = 0.2  # of a cell that the line through it covers
_CELL = 12  # pixels of one patch in the image of a single code


@needs_libraries()
def draw_maps(maps: Sequence[HeatMap]) -> bytes:
    """Panels side by side as a PNG file; a dashed line marks each code's own patch. AlitokError without matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {"font.size": 9, "text.parse_math": False, "text.usetex": False}
    with mpl.rc_context(settings):
        heights = [_INCHES * 0.82 * min(max(len(each.values) / each.values.shape[1], 0.6), 1.6) for each in maps]
        figure = Figure(figsize=(_INCHES * len(maps), max(heights) + 0.8), layout="constrained")
        for number, each in enumerate(maps):
            _panel(figure, figure.add_subplot(1, len(maps), number + 1), each)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _panel(figure: Any, axes: Any, shown: HeatMap) -> None:
    import matplotlib as mpl
    from matplotlib.colors import PowerNorm

    colours = mpl.colormaps[COLOUR_MAP].with_extremes(bad="#bbbbbb")
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
    raster = shown.raster
    width = min(0.9, _LINE * _INCHES * 72 / max(shown.values.shape))  # thinner than a cell, which it must not hide
    style = {"color": _OWN, "linewidth": width, "linestyle": (0, (3 / width, 2 / width))}
    codes = np.arange(raster.length)
    own = raster.cells() if "patch" in (shown.rows, shown.columns) else codes
    for some in (slice(0, raster.prefix), slice(raster.prefix, None)):
        along, across = (own[some], codes[some]) if shown.rows == "code" else (codes[some], own[some])
        axes.plot(along, across, **style)
    edge = raster.prefix - 0.5
    if raster.prefix and shown.rows == "code":
        axes.axhline(edge, color=_OWN, linewidth=0.7)
    if raster.prefix and shown.columns == "code":
        axes.axvline(edge, color=_OWN, linewidth=0.7)


def _ticks(raster: Raster, kind: Axis) -> tuple[list[int], list[str]]:
    first = raster.prefix if kind == "code" else 0
    rows = range(0, raster.grid, -(-raster.grid // _MOST_TICKS))
    places, names = [first + row * raster.grid for row in rows], [f"row {row}" for row in rows]
    if first:
        places, names = [0, *places], ["prefix", *names]
    return places, names


def image_of_code(values: np.ndarray, own: int, grid: int, top: float) -> np.ndarray:
    """How much each patch (P,) changes one code, as an image (3, h, h) uint8 whose brightest color is `top`.

    A frame marks the code's own patch.
    """
    brightness = (np.nan_to_num(values) / top).clip(0, 1) ** _ROOT
    large = coloured(brightness.reshape(grid, grid)).repeat(_CELL, 1).repeat(_CELL, 2)
    row, column = np.divmod(own, grid) * np.array(_CELL)
    frame = large[:, row : row + _CELL, column : column + _CELL]
    inside = frame[:, 2:-2, 2:-2].copy()
    frame[:] = np.frombuffer(bytes.fromhex(_OWN[1:]), np.uint8)[:, None, None]
    frame[:, 2:-2, 2:-2] = inside
    return large


def inline_map(shown: HeatMap) -> InlineImage:
    """The map as it stands in a page."""
    png = draw_maps([shown])
    width, height = (int.from_bytes(png[start : start + 4]) for start in (16, 20))  # of the PNG's header
    return InlineImage(png_address(png), round(width * _CSS_DPI / _DPI), round(height * _CSS_DPI / _DPI))
