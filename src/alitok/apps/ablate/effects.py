"""What each change of the method does to the numbers: differences of two arms, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from alitok.apps.ablate.numbers import Ablation, CellNumbers, MeanStd, mean_std
from alitok.apps.ablate.tables import METRICS, interval, mean_cell, number
from alitok.metrics.matched import Bounds, t_interval
from alitok.report.model import Cell, Row, Table

EQUAL_PSNR = 0.2  # dB; smaller differences are not visible and within the variance of training
_OPEN_STD = 0.5  # dB; with a larger standard deviation over the seeds, equality cannot be claimed
EQUAL_USE, EQUAL_PERPLEXITY = 0.10, 1.25  # difference of the used fractions of a codebook; ratio
_FOOTNOTE = (
    "Second arm minus first: mean ± sample standard deviation over the seeds of both and, below, Student's 95 % "
    "interval; a difference whose interval contains 0 is within seed variance. PSNR is equal within the larger "
    f"standard deviation of the two arms, at least {EQUAL_PSNR} dB; where that exceeds {_OPEN_STD} dB, the comparison "
    "is open. Bits and accuracy compare by themselves only at equal PSNR, and codes of a rarely used codebook are "
    "easier to predict whatever their order. With the same codes, the generator is the same too."
)
Fidelity = Literal["", "same codes", "unknown", "not equal", "open", "equal"]


class Contrast(NamedTuple):
    """Two arms and what the second has instead."""

    first: str
    second: str
    change: str


CONTRASTS = (
    Contrast("A", "CE", "causal encoder"),
    Contrast("A", "B", "causal decoder"),
    Contrast("B", "C", "prefix codes"),
    Contrast("C", "D", "auxiliary loss of the first row"),
    Contrast("D", "F", "stage-2 decoder that reads all codes"),
    Contrast("D", "F-", "stage-2 decoder that does not read the prefix codes"),
    Contrast("D", "E", "longer training"),
    Contrast("A", "V", "convolutional tokenizer"),
)


@dataclass(frozen=True)
class Effect:
    """A contrast at the main codebook size: cells of both arms by seed; empty if an arm is not finished."""

    contrast: Contrast
    cells: tuple[tuple[CellNumbers, CellNumbers], ...]

    @property
    def name(self) -> str:
        """Both arms."""
        return f"{self.contrast.first} to {self.contrast.second}"

    def change(self, metric: str) -> MeanStd | None:
        """Second minus first; None if unknown."""
        return mean_std(_changes(self.cells, metric))

    def means(self, metric: str) -> list[MeanStd]:
        """Of both arms, as far as known."""
        found = [mean_std(getattr(cell, metric) for cell in cells) for cells in zip(*self.cells, strict=True)]
        return [each for each in found if each is not None]

    @property
    def same_codes(self) -> bool:
        """Whether both arms have the same codes and generator, by their numbers."""
        return bool(self.cells) and all(
            math.isclose(getattr(first, name), getattr(second, name), rel_tol=1e-6)
            for first, second in self.cells
            for name in ("bits", "grid_bits", "accuracy", "codebook_perplexity")
        )

    @property
    def tolerance(self) -> float:
        """Difference in PSNR that counts as equal, in dB."""
        return max([EQUAL_PSNR, *(mean.std for mean in self.means("psnr") if mean.std is not None)])

    @property
    def fidelity(self) -> Fidelity:
        """Whether both arms reconstruct equally well, so that bits and accuracy compare."""
        if not self.cells:
            return ""
        if self.same_codes:
            return "same codes"
        change = self.change("psnr")
        if change is None:
            return "unknown"
        if abs(change.mean) > self.tolerance:
            return "not equal"
        return "open" if self.tolerance > _OPEN_STD else "equal"

    @property
    def unequal_use(self) -> bool:
        """Whether one arm uses its codebook much more than the other."""
        use, perplexity = ([mean.mean for mean in self.means(f"codebook_{name}")] for name in ("use", "perplexity"))
        if self.same_codes or len(use) < 2 or len(perplexity) < 2:
            return False
        return max(use) - min(use) > EQUAL_USE or max(perplexity) > EQUAL_PERPLEXITY * min(perplexity)


def effects_of(ablation: Ablation) -> list[Effect]:
    """The contrasts whose arms were both requested."""
    return [
        Effect(contrast, tuple(ablation.paired(contrast.first, contrast.second)))
        for contrast in CONTRASTS
        if contrast.first in ablation.arms and contrast.second in ablation.arms
    ]


def change_interval(cells: Sequence[tuple[CellNumbers, CellNumbers]], metric: str) -> Bounds | None:
    """Student's 95 % interval of a change over the seeds; None with fewer than two."""
    return t_interval([change for change in _changes(cells, metric) if math.isfinite(change)])


def effects_table(effects: Sequence[Effect]) -> Table:
    """A row for every contrast."""
    columns = "Δ bits per image", "Δ bits, %", "Δ grid bits", "Δ PSNR, dB", "Δ accuracy, points"
    more = "codebook use, %", "perplexity", "PSNR equal", "seeds"
    return Table((*columns, *more), tuple(map(_row, effects)), "arms", footnote=_FOOTNOTE)


def _row(effect: Effect) -> Row:
    bits, before = effect.change("bits"), effect.means("bits")[:1]
    relative = ""
    if bits is not None and before and before[0].mean > 0:
        relative = number(100 * bits.mean / before[0].mean, 1, signed=True)
    use, perplexity = (
        Cell(" → ".join(f"{factor * mean.mean:,.0f}" for mean in effect.means(name)))
        for name, factor in (("codebook_use", 100), ("codebook_perplexity", 1))
    )
    fidelity = effect.fidelity
    within = f"within {effect.tolerance:.2f} dB" if fidelity in ("not equal", "open", "equal") else ""
    changes = [_change(effect, metric) for metric in ("bits", "grid_bits", "psnr", "accuracy")]
    return Row(
        effect.name,
        (changes[0], relative, *changes[1:], use, perplexity, Cell(fidelity, within), str(len(effect.cells))),
        key=effect.contrast.change,
    )


def _change(effect: Effect, metric: str) -> Cell:
    shown = METRICS[metric]
    bounds, factor = change_interval(effect.cells, metric), 100 if shown.percent else 1
    value = mean_cell(effect.change(metric), shown, signed=True)
    below = "" if bounds is None else interval(factor * bounds.low, factor * bounds.high, shown.digits or 0)
    return Cell(f"{value.value} {value.below}".strip(), below)


def _changes(cells: Sequence[tuple[CellNumbers, CellNumbers]], metric: str) -> list[float]:
    return [getattr(second, metric) - getattr(first, metric) for first, second in cells]
