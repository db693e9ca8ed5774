"""What a training will do, before it does it: steps, images, epochs and learning rates of each phase.

Enters: the phases of a training, its batch and the number of images. Leaves: rows for a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig
from alitok.train.tokenizer import TokenizerPhase


@dataclass(frozen=True)
class PlannedPhase:
    """One phase of a plan.

    Attributes:
        name: of the phase.
        first_step: steps done before it.
        steps: its own, at most.
        images: images it reads, each view counted.
        epochs: how often it reads each image; of an image's several stored crops, one is drawn in each epoch.
        rates: learning rate after the warm-up and at the end.
        warmup_steps: of linear growth.
        losses: what is minimised, `weight term` each.
    """

    name: str
    first_step: int
    steps: int
    images: int
    epochs: float
    rates: tuple[float, float]
    warmup_steps: int
    losses: tuple[str, ...]


def plan(phases: Sequence[Phase], loop: LoopConfig, images: int, *, frozen_codes: bool = False) -> list[PlannedPhase]:
    """The phases of a training on so many images, in order; frozen codes have no terms that shape them."""
    factor = loop.optimizer.rate_factor(loop.batch_size)
    rows, first = [], 0
    for phase in phases:
        seen = phase.steps * loop.batch_size
        rows.append(
            PlannedPhase(
                phase.name,
                first,
                phase.steps,
                seen,
                seen / images,
                (phase.learning_rate * factor, phase.final_learning_rate * factor),
                phase.warmup_steps,
                _losses(phase, frozen_codes),
            )
        )
        first += phase.steps
    return rows


def _losses(phase: Phase, frozen_codes: bool) -> tuple[str, ...]:
    if not isinstance(phase, TokenizerPhase):
        return ("cross-entropy",)
    weights = phase.losses
    shaping = () if frozen_codes else ("quantizer", "auxiliary")
    names = ("mse", "convnext", "lpips", "local", *shaping, "adversarial", "lecam")
    terms = [f"{getattr(weights, name):.3g} {name}" for name in names if getattr(weights, name)]
    return (*terms, f"discriminator on, {weights.discriminator:.3g}") if phase.discriminator else tuple(terms)
