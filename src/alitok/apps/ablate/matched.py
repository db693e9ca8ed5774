"""Arms of an ablation at equal PSNR: the difference of their bits per image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alitok.apps.ablate.effects import CONTRASTS
from alitok.apps.ablate.numbers import Ablation
from alitok.apps.ablate.tables import interval, number
from alitok.metrics.matched import Bounds, Comparison, RDCurve, RDPoint, compare_at_matched_psnr, psnr_range
from alitok.report.model import Row, Table

# The arms compared with each RD curve, before those of the contrasts.
_AGAINST = {"A": ("CE", "B", "C", "D", "F", "F-", "E", "V"), "B": ("C", "D", "F", "F-", "E")}
_FOOTNOTE = (
    "Bits of the second arm minus bits of the first, the mean over the range of PSNR that both reach; below zero, "
    "the second takes fewer. An arm with one codebook size is compared at its one PSNR, and nothing is extrapolated. "
    "Intervals at 95 %: over trainings, Student's over one difference per seed, which covers the variance of "
    "training but not the choice of validation images or codebook sizes; over images, a bootstrap over the "
    "validation images, which does not cover the variance of training, often the larger one. With one seed there is "
    "no interval over trainings. Bold: the interval over trainings excludes zero. Of twenty intervals, one is "
    "expected to miss by chance."
)
_APART_FOOTNOTE = (
    "Arms without a common PSNR cannot be compared. Named is an arm that in every seed has a higher PSNR than any "
    "codebook size of the other and takes fewer bits than the nearest of them, with the mean number of bits saved."
)


@dataclass(frozen=True)
class MatchedArms:
    """Two arms at equal PSNR; `ranges` are their PSNR, `comparison` the second's bits minus the first's.

    `beyond`, if they have no PSNR in common: the arm with higher PSNR for fewer bits in every seed, and how many fewer
    on average.
    """

    first: str
    second: str
    comparison: Comparison
    ranges: tuple[Bounds | None, Bounds | None]
    beyond: tuple[str, float] | None = None

    @property
    def name(self) -> str:
        """Both arms."""
        return f"{self.first} to {self.second}"


def rd_curves(ablation: Ablation, arm: str) -> dict[int, RDCurve]:
    """The RD curve of an arm over its codebook sizes, by seed."""
    return {
        seed: RDCurve(
            tuple(
                RDPoint(c.codebook_size, c.psnr, c.bits, np.array(c.image_psnr), np.array(c.image_bits)) for c in cells
            )
        )
        for seed, cells in ablation.by_seed(arm).items()
    }


def matched_arms(ablation: Ablation) -> list[MatchedArms]:
    """Compare arms at equal PSNR if at least one of two has several codebook sizes.

    AlitokError where cells were measured on different images.
    """
    pairs = [(first, second) for first, others in _AGAINST.items() for second in others]
    found = []
    for first, second in dict.fromkeys([*pairs, *((each.first, each.second) for each in CONTRASTS)]):
        if ablation.sizes(first) and ablation.sizes(second) and len(ablation.sizes(first) + ablation.sizes(second)) > 2:
            ours, theirs = rd_curves(ablation, first), rd_curves(ablation, second)
            comparison = compare_at_matched_psnr(ours, theirs)
            seeds = list(comparison.by_seed)
            ranges = psnr_range(ours[seed] for seed in seeds), psnr_range(theirs[seed] for seed in seeds)
            beyond = _beyond({first: ours, second: theirs}, seeds)
            found.append(MatchedArms(first, second, comparison, ranges, beyond))
    return found


def _beyond(curves: Mapping[str, Mapping[int, RDCurve]], seeds: list[int]) -> tuple[str, float] | None:
    """Which of two arms has a higher PSNR than the other ever has, for fewer bits, in every seed of both."""
    for arm, other in (tuple(curves), tuple(curves)[::-1]):
        saved = [curves[arm][seed].bits_saved_beyond(curves[other][seed]) for seed in seeds]
        if seeds and all(bits > 0 for bits in saved):
            return arm, math.fsum(saved) / len(saved)
    return None


def dominated_points(ablation: Ablation) -> list[str]:
    """The points that RD curves leave out because another codebook size takes fewer bits at no lower PSNR."""
    return [
        f"{arm} with {point.codebook_size:,} codes, seed {seed}"
        for arm in ablation.arms
        for seed, curve in rd_curves(ablation, arm).items()
        for point in curve.dominated
        if point.finite
    ]


def matched_table(found: list[MatchedArms]) -> Table:
    """A row for each two arms that have a PSNR in common."""
    columns = "PSNR, dB", "Δ bits per image", "Δ bits, %", "Δ bits at the middle"
    more = "interval, trainings", "interval, images", "seeds"
    rows = tuple(_row(entry) for entry in found if entry.comparison.difference is not None)
    return Table((*columns, *more), rows, "arms", footnote=_FOOTNOTE)


def apart_table(found: list[MatchedArms]) -> Table:
    """A row for each two arms without a PSNR in common."""
    rows = []
    for entry in found:
        if entry.comparison.difference is None:
            arm, saved = ("", "") if entry.beyond is None else (entry.beyond[0], number(entry.beyond[1], 1))
            seeds = str(len(entry.comparison.by_seed))
            rows.append(Row(entry.name, (*map(_range, entry.ranges), arm, saved, seeds)))
    columns = ("PSNR of the first, dB", "PSNR of the second, dB", "higher PSNR for fewer bits", "bits saved", "seeds")
    return Table(columns, tuple(rows), "arms", "No PSNR in common", _APART_FOOTNOTE)


def _row(entry: MatchedArms) -> Row:
    found = entry.comparison
    assert found.difference is not None
    assert found.relative is not None
    assert found.middle is not None
    used, trainings = found.used, found.difference.trainings
    cells = (
        _range(Bounds(min(delta.low for delta in used), max(delta.high for delta in used))),
        number(found.difference.value, 1, signed=True),
        number(100 * found.relative.value, 1, signed=True) if math.isfinite(found.relative.value) else "",
        number(found.middle.value, 1, signed=True),
        *("" if bounds is None else interval(*bounds) for bounds in (trainings, found.difference.images)),
        str(len(used)) if len(used) == len(found.by_seed) else f"{len(used)} of {len(found.by_seed)}",
    )
    return Row(entry.name, cells, strong=trainings is not None and trainings.excludes_zero)


def _range(bounds: Bounds | None) -> str:
    if bounds is None:
        return ""
    low, high = (f"{value:.2f}" for value in bounds)
    return low if low == high else f"{low} to {high}"
