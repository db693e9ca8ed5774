"""Memory of one process of a training, under each way of laying it over several.

Enters: a rehearsed stage and how many processes share it. Leaves: bytes by what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass

from alitok.apps.plan.step_trace import Rehearsal, Weights
from alitok.train.parallel import Parallel

_MOMENTS = 2  # of AdamW, for each weight
_GATHERED = 2  # blocks whose weights FSDP holds whole at a time: the one at work and the next


@dataclass(frozen=True)
class Layout:
    """How a training is laid over processes.

    Attributes:
        parallel: what they share.
        activation_checkpointing: whether blocks keep no activations.
    """

    parallel: Parallel
    activation_checkpointing: bool

    @property
    def name(self) -> str:
        """For tables."""
        return self.parallel.upper() + (" + activation_checkpointing" if self.activation_checkpointing else "")


LAYOUTS = tuple(
    Layout(parallel, activation_checkpointing)
    for parallel in ("ddp", "fsdp")
    for activation_checkpointing in (False, True)
)


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process at the fullest moment of a step.

    Attributes:
        layout: under which.
        images: of a microbatch.
        weights: trained and frozen, float32.
        gradients: float32.
        optimizer: AdamW's moments, and the running average of the weights.
        activations: all that a step allocates besides: activations, bf16 copies of weights, what is in work.
        largest: images of a microbatch that a GPU of this memory holds; None where it is not known, 0 = none.
    """

    layout: Layout
    images: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    largest: int | None = None

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class ActivationLine:
    """Bytes of a step as a straight line over the images of a microbatch, through two that were followed."""

    fixed: float
    each: float

    @classmethod
    def through(cls, low: tuple[int, int], high: tuple[int, int]) -> ActivationLine:
        """The line through two steps, each (images, bytes)."""
        each = (high[1] - low[1]) / (high[0] - low[0])
        return cls(high[1] - each * high[0], each)

    def at(self, images: int) -> int:
        """Bytes for so many images."""
        return round(self.fixed + self.each * images)

    def most(self, room: float) -> int:
        """Images that fit into so many bytes."""
        return max(0, int((room - self.fixed) / self.each))


def static_bytes(weights: Weights, layout: Layout, processes: int, *, average: bool) -> tuple[int, int, int]:
    """Bytes of weights, gradients, and moments with the average, of one process."""
    spread = processes if layout.parallel == "fsdp" else 1
    own = weights.blocks // spread + weights.whole
    learnt = own + weights.rival
    return learnt + weights.frozen, learnt, _MOMENTS * learnt + (own if average else 0)


def footprint(
    rehearsal: Rehearsal,
    line: ActivationLine,
    layout: Layout,
    *,
    images: int,
    processes: int,
    average: bool,
    room: float | None = None,
) -> Footprint:
    """What one process holds.

    Args:
        rehearsal: the stage.
        line: of its activations under this layout.
        layout: how it is laid over the processes.
        images: of a microbatch.
        processes: that share the training.
        average: whether a running average of the weights is kept.
        room: bytes that a GPU has for all of it; None = not asked.
    """
    weights, gradients, optimizer = static_bytes(rehearsal.weights, layout, processes, average=average)
    gathered = _GATHERED * rehearsal.largest_block if layout.parallel == "fsdp" else 0
    fixed = weights + gradients + optimizer + gathered
    return Footprint(
        layout,
        images,
        weights,
        gradients,
        optimizer,
        line.at(images) + gathered,
        None if room is None else line.most(room - fixed),
    )
