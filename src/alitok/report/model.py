"""One report for every command: sections of tables, images, curves and heat maps. It knows no application.

A section without blocks, and a block without content, is left out. All texts are plain and escaped by the writers.
Images are (N, 3, h, w) uint8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from alitok.metrics.dependency import Raster

NOTHING = "\N{EN DASH}"  # shown in place of a missing value
Axis = Literal["code", "patch"]


class Cell(NamedTuple):
    """A formatted value and a smaller line below it, such as its confidence interval or `± 0.12`."""

    value: str
    below: str = ""

    @property
    def text(self) -> str:
        """Both in one line; a dash if empty."""
        return f"{self.value} {self.below}".strip() or NOTHING


@dataclass(frozen=True)
class Row:
    """One row of a table; a `strong` one is bold, and an empty cell is a dash.

    `key` is small below the name, such as the number's key in a JSON file; `meaning`, which direction is better, is in
    a last column.
    """

    name: str
    cells: tuple[str | Cell, ...]
    key: str = ""
    meaning: str = ""
    strong: bool = False

    @property
    def values(self) -> tuple[Cell, ...]:
        """The cells, each as a `Cell`."""
        return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """Numbers in rows and columns; `row_head` stands above the names of the rows.

    `footnote` says what an interval is, over how many seeds; the HTML page shows a `folded` table only on demand, under
    that text.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    row_head: str = "name"
    caption: str = ""
    footnote: str = ""
    folded: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row.cells) == len(self.columns), row

    @property
    def has_meanings(self) -> bool:
        """Whether some row explains itself."""
        return any(row.meaning for row in self.rows)


@dataclass(frozen=True)
class Facts:
    """Settings and environment: names and values, which may be numbers or lists."""

    entries: Mapping[str, Any]


@dataclass(frozen=True)
class Bullets:
    """Sentences as a list."""

    items: tuple[str, ...]
    folded: str = ""


@dataclass(frozen=True)
class Code:
    """Preformatted text, such as a configuration file."""

    text: str
    folded: str = ""


@dataclass(frozen=True, eq=False)
class ImageSheet:
    """A contact sheet: images in rows, in one PNG.

    Attributes:
        images: (N, 3, h, w) uint8; if empty, the page prints that.
        labels: one for each column.
        min_width: CSS pixels of each image; smaller ones are enlarged by the smallest whole factor that reaches it.
        pad: white pixels between and around images.
    """

    images: np.ndarray
    alt: str
    columns: int = 1
    caption: str = ""
    labels: tuple[str, ...] = ()
    labels_below: bool = False
    min_width: int = 96
    pad: int = 1


@dataclass(frozen=True)
class Images:
    """Contact sheets side by side, as many as the screen has room for."""

    sheets: tuple[ImageSheet, ...]


@dataclass(frozen=True)
class Curve:
    """One panel of lines: (x values, y values) by name; labels and scattered points are by the same names.

    Attributes:
        markers: every point is marked, and its numbers stand in a table below the panel.
        labels: texts beside the points of a line.
        label_name: what these texts are, such as "guidance scale".
        scatter: more points of a line, faint and not joined.
        wide: a larger panel with its legend below, for long names.
        file: name of an SVG file of the panel beside the report, to which the Markdown then refers.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[list[float], list[float]]]
    log_y: bool = False
    markers: bool = False
    labels: Mapping[str, list[str]] = field(default_factory=dict)
    label_name: str = "point"
    scatter: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    wide: bool = False
    file: str = ""


@dataclass(frozen=True)
class Curves:
    """Panels of lines side by side."""

    curves: tuple[Curve, ...]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A matrix over codes and patches; its colors mean `meaning`.

    Attributes:
        values: (rows, columns), at least 0; NaN is shown gray.
        raster: where codes and patches stand.
        limit: value of the brightest color; None = the largest value.
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
        """Value of the brightest color."""
        if self.limit is not None:
            return self.limit
        finite = self.values[np.isfinite(self.values)]
        return max(float(finite.max(initial=0.0)), 1e-12)


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps side by side."""

    maps: tuple[HeatMap, ...]


Block = Table | Facts | Bullets | Code | Images | Curves | HeatMaps
_CONTENT = {  # the field without which a block is empty
    Table: "rows",
    Facts: "entries",
    Bullets: "items",
    Code: "text",
    Images: "sheets",
    Curves: "curves",
    HeatMaps: "maps",
}


@dataclass(frozen=True)
class Section:
    """A heading, a faint note below it, and what it shows."""

    heading: str
    blocks: tuple[Block, ...]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """A whole report; `warnings` are what a reader must know before the numbers."""

    title: str
    summary: str
    command: str
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()

    @property
    def shown(self) -> list[tuple[Section, list[Block]]]:
        """Sections that have something to show, with those blocks."""
        found = [
            (section, [block for block in section.blocks if getattr(block, _CONTENT[type(block)])])
            for section in self.sections
        ]
        return [(section, blocks) for section, blocks in found if blocks]


def fact_text(value: Any) -> str:
    """A value of `Facts` as text: six digits of a float, at most ten items of a list."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value[:10])) + (f" ... ({len(value)})" if len(value) > 10 else "") or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
