"""What each step of the idea changes, in sentences, and what a reader must know before them.

Enters: an `Ablation`. Leave: a `StepReading` for each step whose arms were asked for, and warnings. No sentence calls
an arm better for its accuracy: codes that say less are easier to guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alitok.apps.ablate.numbers import Ablation, CellNumbers, Summary, summary
from alitok.apps.ablate.table import COLUMNS, number, shown
from alitok.core.console import listed
from alitok.metrics.student import t_interval

EQUAL_PSNR = 0.2  # dB; less is nothing that an eye or another training would notice
_LOOSE = 0.5  # dB; where trainings of one arm differ by more, no difference of two arms says that they are equal
EQUAL_USE, EQUAL_PERPLEXITY = 0.10, 1.25  # difference of shares of the codebook; ratio
OVERFITTED = 0.10  # share of its held-out bits that a generator spares on training images
_SEEDS = 3  # fewer tell no spread
_LEVEL = 0.95


class Step(NamedTuple):
    """From one arm to another.

    Attributes:
        first, second: keys of the arms.
        change: what the second has instead.
    """

    first: str
    second: str
    change: str


STEPS = (
    Step("A", "CE", "a causal encoder"),
    Step("A", "B", "a causal decoder"),
    Step("B", "C", "prefix codes"),
    Step("C", "D", "the auxiliary loss of the first row"),
    Step("D", "F", "a second decoder that reads all codes"),
    Step("D", "F-", "a second decoder that does not read the prefix codes"),
    Step("D", "E", "longer training"),
    Step("A", "V", "a convolutional tokenizer"),
)


@dataclass(frozen=True)
class StepReading:
    """What a step changed at the main codebook, over the seeds that both arms have.

    Attributes:
        step: which.
        pairs: the cells; none where an arm is not finished.
    """

    step: Step
    pairs: tuple[tuple[CellNumbers, CellNumbers], ...]

    def change(self, name: str) -> Summary | None:
        """The second's number minus the first's; None where it is not known."""
        return summary(getattr(second, name) - getattr(first, name) for first, second in self.pairs)

    def means(self, name: str) -> tuple[Summary | None, Summary | None]:
        """Of both arms."""
        return tuple(summary(getattr(cell, name) for cell in cells) for cells in zip(*self.pairs, strict=True))  # type: ignore[return-value]  # two arms

    @property
    def same_codes(self) -> bool:
        """Whether both read the same codes with the same generator, told from the numbers."""
        return bool(self.pairs) and all(
            math.isclose(getattr(first, name), getattr(second, name), rel_tol=1e-6)
            for first, second in self.pairs
            for name in ("bits", "grid_bits", "accuracy", "codebook_perplexity")
        )

    @property
    def tolerance(self) -> float:
        """Decibels up to which the fidelity counts as equal: the seeds' spread, or `EQUAL_PSNR` if that is larger."""
        spreads = [mean.spread for mean in self.means("psnr") if mean is not None and mean.spread is not None]
        return max([EQUAL_PSNR, *spreads])

    @property
    def unequal(self) -> bool:
        """Whether bits and accuracy are of reconstructions that are not equally near, or not known to be."""
        if not self.pairs or self.same_codes:
            return False
        change = self.change("psnr")
        return change is None or abs(change.mean) > self.tolerance

    @property
    def other_use(self) -> bool:
        """Whether one uses its codebook much more than the other."""
        if not self.pairs or self.same_codes:
            return False
        use, perplexity = self.means("codebook_use"), self.means("codebook_perplexity")
        if None in use or None in perplexity:
            return False
        shares, counts = [mean.mean for mean in use if mean], [mean.mean for mean in perplexity if mean]
        return max(shares) - min(shares) > EQUAL_USE or max(counts) > EQUAL_PERPLEXITY * min(counts)

    @property
    def sentence(self) -> str:
        """The differences with their spread, and what they may not be taken for."""
        first, second, change = self.step
        named = f"{first} to {second}, {change}"
        if not self.pairs:
            return f"{named}: no seed has both arms finished."
        seeds = "1 seed" if len(self.pairs) == 1 else f"{len(self.pairs)} seeds"
        psnr = f"PSNR {self._told('psnr')} dB"
        if self.same_codes:
            same = " Codes and generator are the same, so bits and accuracy are too."
            return f"{named}: {psnr}; {seeds}.{same}{self._chance(('psnr',))}"
        bits = f"bits an image {self._told('bits')}{self._share()}{self._grid()}"
        said = f"{named}: {bits}, {psnr}, accuracy {self._told('accuracy')} points; {seeds}."
        return said + self._chance(("bits", "psnr", "accuracy")) + self._fidelity() + self._use()

    def _told(self, name: str) -> str:
        value = self.change(name)
        return "not known" if value is None else shown(value, COLUMNS[name], signed=True).text

    def _share(self) -> str:
        change, before = self.change("bits"), self.means("bits")[0]
        if change is None or before is None or before.mean <= 0:
            return ""
        return f" ({number(100 * change.mean / before.mean, 1, signed=True)} %)"

    def _grid(self) -> str:
        """The grid's codes alone, where an arm has others."""
        if all(cell.bits == cell.grid_bits for pair in self.pairs for cell in pair):
            return ""
        return f", of the grid's codes alone {self._told('grid_bits')}"

    def _chance(self, names: Sequence[str]) -> str:
        """Which differences the chance of training would explain; with one seed none is known."""
        within = [COLUMNS[name].head.split(",")[0] for name in names if not decided(self.pairs, name)]
        if len(self.pairs) < 2 or not within:
            return ""
        return f" The chance of training would explain the difference in {listed(within)} (95 %)."

    def _fidelity(self) -> str:
        change = self.change("psnr")
        if change is None:
            return " Whether that is at equal fidelity is not known."
        if not self.unequal and self.tolerance > _LOOSE:
            return (
                f" Trainings of one arm differ by {self.tolerance:.2f} dB (PSNR), so whether that is at equal fidelity "
                "is open, and bits and accuracy do not compare by themselves."
            )
        if not self.unequal:
            return f" That is at about equal fidelity (PSNR within {self.tolerance:.2f} dB)."
        nearer = "the first" if change.mean < 0 else "the second"
        return (
            f" Not at equal fidelity: PSNR differs by {abs(change.mean):.2f} dB, and {nearer} keeps more of the "
            "image, so bits and accuracy do not compare by themselves."
        )

    def _use(self) -> str:
        if not self.other_use:
            return ""
        uses = [f"{100 * mean.mean:.0f} %" for mean in self.means("codebook_use") if mean]
        counts = [f"{mean.mean:,.0f}" for mean in self.means("codebook_perplexity") if mean]
        return (
            f" The codebook is not used alike ({' and '.join(uses)} of it, perplexity {' and '.join(counts)}); codes "
            "of a little used one are easier to guess whatever their order."
        )


def decided(pairs: Sequence[tuple[CellNumbers, CellNumbers]], name: str) -> bool:
    """Whether Student's 95 % interval of a number's change over the seeds holds no zero; never with one seed."""
    changes = [getattr(second, name) - getattr(first, name) for first, second in pairs]
    bounds = t_interval([change for change in changes if math.isfinite(change)], _LEVEL)
    return bounds is not None and (bounds.low > 0 or bounds.high < 0)


def read_steps(ablation: Ablation) -> list[StepReading]:
    """The steps whose arms were both asked for."""
    return [
        StepReading(step, tuple(ablation.paired(step.first, step.second)))
        for step in STEPS
        if step.first in ablation.arms and step.second in ablation.arms
    ]


def warnings_of(ablation: Ablation, readings: Iterable[StepReading], beaten: Sequence[str]) -> list[str]:
    """What a reader must know before the numbers.

    Args:
        ablation: the numbers.
        readings: of its steps.
        beaten: points that the curves leave out.
    """
    if not ablation.cells:
        return ["No cell is finished yet."]
    readings = list(readings)
    said = [*_unfinished(ablation), *_few_seeds(ablation), *_not_finite(ablation)]
    unequal = [
        f"{reading.step.first} to {reading.step.second}{_gap(reading)}" for reading in readings if reading.unequal
    ]
    if unequal:
        said.append(
            f"Not at equal fidelity: {'; '.join(unequal)}. There, fewer bits or more codes guessed may only mean that "
            "less of the image is kept; compare them at equal PSNR."
        )
    others = [f"{reading.step.first} to {reading.step.second}" for reading in readings if reading.other_use]
    if others:
        said.append(
            f"The codebook is not used alike: {'; '.join(others)}. Part of the difference in accuracy may come from "
            "that alone."
        )
    said += _overfitted(ablation)
    if beaten:
        said.append(
            f"Curves leave out {'; '.join(beaten)}: another codebook takes fewer bits at no less PSNR. The best of "
            "several trainings is then what is compared."
        )
    return said


def _gap(reading: StepReading) -> str:
    change = reading.change("psnr")
    return " (not known)" if change is None else f" ({number(change.mean, 2, signed=True)} dB)"


def _unfinished(ablation: Ablation) -> list[str]:
    missing: dict[str, list[str]] = {}
    for arm, size, seed in ablation.missing():
        where = arm if size == ablation.codebook_size else f"{arm} with {size:,} codes"
        missing.setdefault(where, []).append(str(seed))
    if not missing:
        return []
    named = [
        f"{where} ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)})" for where, seeds in missing.items()
    ]
    lacking, there = sum(map(len, missing.values())), len(ablation.cells)
    return [
        f"{lacking} of {lacking + there} cells are not finished: {'; '.join(named)}. The report shows what there is."
    ]


def _few_seeds(ablation: Ablation) -> list[str]:
    """The main table's arms that have too few for a spread."""
    counts = {arm: len(ablation.of(arm)) for arm in ablation.arms if ablation.of(arm)}
    few = [arm for arm, count in counts.items() if count < _SEEDS]
    if not few:
        return []
    which = "" if len(few) == len(counts) else f" of {listed(few)}"
    if max(counts[arm] for arm in few) == 1:
        return [f"One seed{which}: how much another training would move the numbers is not known."]
    return [f"Fewer than {_SEEDS} seeds{which}: the spread of so few trainings says little, and that of one nothing."]


def _not_finite(ablation: Ablation) -> list[str]:
    found = [
        f"{COLUMNS[name].head.split(',')[0]} of {cell.arm} with {cell.codebook_size:,} codes, seed {cell.seed}"
        for cell in ablation.cells
        for name in COLUMNS
        if (value := getattr(cell, name)) is not None and not math.isfinite(value)
    ]
    return [f"Not a finite number, and in no mean: {'; '.join(found)}."] if found else []


def _overfitted(ablation: Ablation) -> list[str]:
    found = []
    for arm in ablation.arms:
        for size in ablation.sizes(arm):
            cells = ablation.of(arm, size)
            val, trained = (summary(getattr(cell, name) for cell in cells) for name in ("bits", "train_bits"))
            if val and trained and trained.mean < (1 - OVERFITTED) * val.mean:
                where = arm if size == ablation.codebook_size else f"{arm} with {size:,} codes"
                found.append(f"{where} ({trained.mean:,.1f} against {val.mean:,.1f})")
    if not found:
        return []
    return [
        f"The generator has learnt training images by heart; their bits against those of held-out ones: "
        f"{'; '.join(found)}. Held-out bits then also measure how well it was kept from that, not the codes alone."
    ]
