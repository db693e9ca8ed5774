"""Arms of an ablation at equal fidelity: bits an image where the PSNR is the same.

Enters: an `Ablation`. Leave: `MatchedArms`, with a sentence each, and their table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from alitok.apps.ablate.numbers import Ablation
from alitok.apps.ablate.table import NOTHING, Row, Shown, Table, number
from alitok.metrics.matched import Comparison, Curve, Point, compare_at_matched_psnr
from alitok.metrics.student import Bounds

# What stands against whose curve: the whole idea against its beginning, and what came after the causal decoder.
_AGAINST = {"A": ("CE", "B", "C", "D", "F", "F-", "E", "V"), "B": ("C", "D", "F", "F-", "E")}


@dataclass(frozen=True)
class MatchedArms:
    """Two arms at equal PSNR.

    Attributes:
        first, second: keys of the arms.
        comparison: the second's bits minus the first's.
        beyond: a clause for arms that never meet, where one is nearer to the image for fewer bits in every seed.
    """

    first: str
    second: str
    comparison: Comparison
    beyond: str = ""

    @property
    def sentence(self) -> str:
        """What was found, with its interval; never more than the interval allows."""
        found, apart = self.comparison, self.comparison.difference
        if apart is None:
            return f"{self.first} and {self.second} cannot be compared at equal PSNR: {found.reason}{self.beyond}."
        more = (
            f"{self.second} takes {abs(apart.value):,.1f} bits an image {'fewer' if apart.value < 0 else 'more'} than"
        )
        said = f"{more} {self.first}{_share(found)} at equal PSNR ({_range(found)})"
        if found.bounds is None:
            said += "; how sure that is cannot be told"
        else:
            over = "trainings" if apart.trainings is not None else "images alone, of one training each"
            verdict = "" if _sure(found.bounds) else ", so that there may be no difference at all"
            said += f"; {100 * found.level:g} % interval over {over}: {_ends(found.bounds)}{verdict}"
        lost = len(found.by_seed) - len(found.used)
        told = f" Without {lost} of {len(found.by_seed)} seeds, which have no PSNR in common." if lost else ""
        return f"{said}.{told}"


def curves_of(ablation: Ablation, arm: str) -> dict[int, Curve]:
    """The curve of an arm over its codebooks, by seed."""
    return {
        seed: Curve(
            tuple(Point(c.codebook_size, c.psnr, c.bits, np.array(c.image_psnr), np.array(c.image_bits)) for c in cells)
        )
        for seed, cells in ablation.by_seed(arm).items()
    }


def matched_arms(ablation: Ablation, steps: Iterable[tuple[str, str]]) -> list[MatchedArms]:
    """Compare all arms against the curves of A and B, and along the steps, where at least one has several codebooks.

    Args:
        ablation: the numbers.
        steps: further pairs of arms.

    Raises:
        AlitokError: numbers of cells that do not belong together.
    """
    pairs = [(first, second) for first, others in _AGAINST.items() for second in others]
    found = []
    for first, second in dict.fromkeys([*pairs, *steps]):
        if ablation.sizes(first) and ablation.sizes(second) and len(ablation.sizes(first) + ablation.sizes(second)) > 2:
            curves, others = curves_of(ablation, first), curves_of(ablation, second)
            compared = compare_at_matched_psnr(curves, others)
            found.append(MatchedArms(first, second, compared, _beyond(first, curves, second, others)))
    return found


def _beyond(first: str, curves: Mapping[int, Curve], second: str, others: Mapping[int, Curve]) -> str:
    """Which arm is nearer to the image than the other ever is, and yet takes fewer bits, in every seed of both."""
    seeds = [seed for seed in curves if seed in others]
    for arm, ours, other, theirs in ((first, curves, second, others), (second, others, first, curves)):
        spared = [ours[seed].spared_beyond(theirs[seed]) for seed in seeds]
        if seeds and all(bits > 0 for bits in spared):
            mean = math.fsum(spared) / len(spared)
            return (
                f"; but in every seed, {arm} has more PSNR than any codebook of {other} for fewer bits than the "
                f"nearest of them takes ({mean:,.1f} bits an image fewer)"
            )
    return ""


def matched_table(found: list[MatchedArms]) -> Table | None:
    """A row for each pair; None where there is none."""
    if not found:
        return None
    columns = (
        "PSNR, dB",
        "bits an image",
        "relative",
        "at the middle",
        "interval, trainings",
        "interval, images",
        "seeds",
    )
    note = (
        "Bits of the second arm minus bits of the first, the mean over the range of PSNR that both reach; below zero, "
        "the second takes fewer. Where an arm has one codebook, the range is its one PSNR. "
        "Nothing is extrapolated. Bold: the interval over trainings holds no zero."
    )
    return Table("At equal fidelity", "arms", columns, tuple(_row(entry) for entry in found), note)


def confidences(found: list[MatchedArms]) -> list[str]:
    """What the intervals are and do not cover, each sentence once."""
    said = [entry.comparison.confidence() for entry in found if entry.comparison.difference is not None]
    if said:
        said.append("Each interval stands for itself: of twenty at 95 %, one is expected to miss by chance alone.")
    return list(dict.fromkeys(said))


def beaten(ablation: Ablation) -> list[str]:
    """The points that curves leave out because another codebook takes fewer bits at no less PSNR, for people."""
    return [
        f"{arm} with {point.codebook_size:,} codes, seed {seed}"
        for arm in ablation.arms
        for seed, curve in curves_of(ablation, arm).items()
        for point in curve.left_out
        if point.finite
    ]


def _row(entry: MatchedArms) -> Row:
    found = entry.comparison
    name = f"{entry.first} to {entry.second}"
    if found.difference is None or found.relative is None or found.middle is None:
        return Row(name, found.reason.partition(":")[0], (*[Shown(NOTHING)] * 6, Shown("0")))
    values = (
        _range(found).removesuffix(" dB"),
        number(found.difference.value, 1, signed=True),
        f"{number(100 * found.relative.value, 1, signed=True)} %" if math.isfinite(found.relative.value) else NOTHING,
        number(found.middle.value, 1, signed=True),
        _ends(found.difference.trainings),
        _ends(found.difference.images),
        str(len(found.used)),
    )
    return Row(name, "", tuple(map(Shown, values)), strong=_sure(found.difference.trainings))


def _range(found: Comparison) -> str:
    """From the least to the most PSNR of any seed's common range."""
    low, high = (f"{value:.2f}" for value in (min(s.low for s in found.used), max(s.high for s in found.used)))
    return f"{low} dB" if low == high else f"{low} to {high} dB"


def _share(found: Comparison) -> str:
    if found.relative is None or not math.isfinite(found.relative.value):
        return ""
    return f" ({number(100 * found.relative.value, 1, signed=True)} %)"


def _ends(bounds: Bounds | None) -> str:
    return (
        NOTHING if bounds is None else f"{number(bounds.low, 1, signed=True)} to {number(bounds.high, 1, signed=True)}"
    )


def _sure(bounds: Bounds | None) -> bool:
    """Whether there is an interval, and it holds no zero."""
    return bounds is not None and (bounds.low > 0 or bounds.high < 0)
