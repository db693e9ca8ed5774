"""Warnings of an ablation: fixed texts with the arms they apply to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alitok.apps.ablate.effects import Effect
from alitok.apps.ablate.numbers import Ablation, mean_std
from alitok.apps.ablate.tables import METRICS, number
from alitok.core.console import listed

OVERFIT = 0.10  # fraction of the validation bits that a generator saves on training images
_MIN_SEEDS = 3  # for a standard deviation


def warnings_of(ablation: Ablation, effects: Sequence[Effect], dominated: Sequence[str]) -> list[str]:
    """What a reader must know before the numbers; `dominated` are points that the RD curves leave out."""
    if not ablation.cells:
        return ["No cell is finished yet."]
    unequal = [f"{each.name} ({_gap(each)})" for each in effects if each.fidelity in ("not equal", "unknown")]
    lists = {
        "Not finite, and left out of the means: {}.": _not_finite(ablation),
        "Unequal PSNR: {}. There, fewer bits or a higher accuracy may only mean that less of the image is encoded; "
        "compare these arms at equal PSNR.": unequal,
        "Unequal codebook use: {}. Part of the difference in accuracy may come from that alone.": [
            each.name for each in effects if each.unequal_use
        ],
        "The generator overfits; bits of training and validation images: {}. Validation bits then also depend on its "
        "regularization, not on the codes alone.": _overfit(ablation),
        "The RD curves leave out {}: another codebook size takes fewer bits at no lower PSNR. The best of several "
        "trainings is compared instead.": dominated,
    }
    named = [(text, "; ".join(items)) for text, items in lists.items()]
    return [*_unfinished(ablation), *_few_seeds(ablation), *(text.format(items) for text, items in named if items)]


def _gap(effect: Effect) -> str:
    change = effect.change("psnr")
    return "unknown" if change is None else f"{number(change.mean, 2, signed=True)} dB"


def _arm(ablation: Ablation, arm: str, size: int) -> str:
    return arm if size == ablation.codebook_size else f"{arm} with {size:,} codes"


def _unfinished(ablation: Ablation) -> list[str]:
    missing: dict[str, list[str]] = {}
    for arm, size, seed in ablation.missing():
        missing.setdefault(_arm(ablation, arm, size), []).append(str(seed))
    if not missing:
        return []
    named = "; ".join(f"{arm} (seed {', '.join(seeds)})" for arm, seeds in missing.items())
    count = sum(map(len, missing.values()))
    return [f"{count} of {count + len(ablation.cells)} cells are not finished: {named}."]


def _few_seeds(ablation: Ablation) -> list[str]:
    counts = {arm: len(ablation.of(arm)) for arm in ablation.arms if ablation.of(arm)}
    few = [arm for arm, count in counts.items() if count < _MIN_SEEDS]
    if not few:
        return []
    which = "" if len(few) == len(counts) else f" of {listed(few)}"
    if max(counts[arm] for arm in few) == 1:
        return [f"One seed{which}: the variance of training is unknown."]
    return [f"Fewer than {_MIN_SEEDS} seeds{which}: standard deviations and intervals are unreliable."]


def _not_finite(ablation: Ablation) -> list[str]:
    return [
        f"{metric.head.split(',')[0]} of {cell.arm} with {cell.codebook_size:,} codes, seed {cell.seed}"
        for cell in ablation.cells
        for name, metric in METRICS.items()
        if (value := getattr(cell, name)) is not None and not math.isfinite(value)
    ]


def _overfit(ablation: Ablation) -> list[str]:
    found = []
    for arm in ablation.arms:
        for size in ablation.sizes(arm):
            cells = ablation.of(arm, size)
            val, train = (mean_std(getattr(cell, name) for cell in cells) for name in ("bits", "train_bits"))
            if val and train and train.mean < (1 - OVERFIT) * val.mean:
                found.append(f"{_arm(ablation, arm, size)} ({train.mean:,.1f} and {val.mean:,.1f})")
    return found
