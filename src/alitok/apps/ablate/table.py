"""The numbers of an ablation as tables for people: arms, codebooks, each a mean and its spread over the seeds.

Enters: an `Ablation`. Leave: `Table`s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alitok.apps.ablate.numbers import Ablation, CellNumbers, Summary, summary

NOTHING = "\N{EN DASH}"


class Shown(NamedTuple):
    """One entry of a table.

    Attributes:
        value: formatted.
        below: what stands small below it, such as "± 0.12"; empty where there is nothing.
    """

    value: str
    below: str = ""

    @property
    def text(self) -> str:
        """In one line."""
        return f"{self.value} {self.below}".strip()


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: such as an arm's key.
        title: what it is, in a few words; may be empty.
        values: one for each column.
        strong: whether it is set off.
    """

    name: str
    title: str
    values: tuple[Shown, ...]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        heading: of its section.
        first: head of the column that names the rows.
        columns: heads of the others.
        rows: in their order.
        note: a sentence or two on what stands there.
    """

    heading: str
    first: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def __post_init__(self) -> None:
        """A value for each column."""
        for row in self.rows:
            assert len(row.values) == len(self.columns), row


class Column(NamedTuple):
    """How a number is shown: its head, digits behind the point (None = three that count), and whether in per cent."""

    head: str
    digits: int | None
    per_cent: bool = False


COLUMNS = {
    "accuracy": Column("accuracy, %", 1, per_cent=True),
    "grid_accuracy": Column("grid accuracy, %", 1, per_cent=True),
    "bits": Column("bits an image", 1),
    "grid_bits": Column("grid bits", 1),
    "train_bits": Column("bits, training", 1),
    "psnr": Column("PSNR, dB", 2),
    "ssim": Column("SSIM", 3),
    "feature_distance": Column("feature distance", 3),
    "codebook_use": Column("codebook use, %", 1, per_cent=True),
    "codebook_perplexity": Column("perplexity", 1),
    "influence_future": Column("later patches, %", 1, per_cent=True),
    "sample_distance": Column("sample distance", None),
    "sample_accuracy": Column("sample accuracy, %", 1, per_cent=True),
    "seconds": Column("seconds", 0),
}
CODES = (
    "accuracy",
    "grid_accuracy",
    "bits",
    "grid_bits",
    "train_bits",
    "codebook_use",
    "codebook_perplexity",
    "influence_future",
)
IMAGES = ("psnr", "ssim", "feature_distance", "sample_distance", "sample_accuracy", "seconds")
BRIEF = (
    "accuracy",
    "bits",
    "psnr",
    "feature_distance",
    "codebook_use",
    "sample_distance",
    "sample_accuracy",
    "seconds",
)
_SIZES = ("bits", "grid_bits", "psnr", "ssim", "feature_distance", "accuracy", "codebook_use", "codebook_perplexity")


def arms_table(ablation: Ablation, fields: Iterable[str] = tuple(COLUMNS), heading: str = "Arms") -> Table:
    """A row for every arm at the main codebook, also where nothing is finished.

    Args:
        ablation: the numbers.
        fields: keys of `COLUMNS`; what no cell has measured is left out.
        heading: of the table.
    """
    shown = tuple(name for name in fields if name != "influence_future" or _any_influence(ablation))
    rows = tuple(
        Row(arm, title, (*cells_shown(ablation.of(arm), shown), Shown(str(len(ablation.of(arm))))))
        for arm, title in ablation.arms.items()
    )
    note = f"{ablation.codebook_size:,} codes. Mean over the seeds and, behind the sign ±, their sample deviation."
    return Table(heading, "arm", (*(COLUMNS[name].head for name in shown), "seeds"), rows, note)


def sizes_table(ablation: Ablation) -> Table | None:
    """A row for every codebook of the arms that have several; None where there is none."""
    rows = []
    for arm in ablation.arms:
        for size in ablation.sizes(arm) if len(ablation.sizes(arm)) > 1 else ():
            cells = ablation.of(arm, size)
            rows.append(Row(f"{arm} {size:,}", "", (*cells_shown(cells, _SIZES), Shown(str(len(cells))))))
    if not rows:
        return None
    note = "The arms that were trained with codebooks of several sizes: the curves of the plot."
    heads = (*(COLUMNS[name].head for name in _SIZES), "seeds")
    return Table("Codebooks of other sizes", "arm, codebook", heads, tuple(rows), note)


def cells_shown(cells: Sequence[CellNumbers], fields: Iterable[str]) -> tuple[Shown, ...]:
    """Mean and spread over some cells of each field, a key of `COLUMNS`."""
    return tuple(shown(summary(getattr(cell, name) for cell in cells), COLUMNS[name]) for name in fields)


def shown(value: Summary | None, column: Column, *, signed: bool = False) -> Shown:
    """A mean and its spread, where there is one, with as many digits as the column has."""
    if value is None:
        return Shown(NOTHING)
    factor = 100 if column.per_cent else 1
    digits = _digits(value.mean * factor) if column.digits is None else column.digits
    spread = "" if value.spread is None else f"± {value.spread * factor:,.{digits}f}"
    return Shown(number(value.mean * factor, digits, signed=signed), spread)


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """Such as `1,234.5` or `+0.12`; one that is rounded to zero has no minus sign."""
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    return text if set(text) & set("123456789") or not math.isfinite(value) else text.lstrip("+-")


def _digits(value: float) -> int:
    """Behind the point, so that three digits count, at most six."""
    return 0 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))


def _any_influence(ablation: Ablation) -> bool:
    return any(cell.influence_future is not None for cell in ablation.cells)
