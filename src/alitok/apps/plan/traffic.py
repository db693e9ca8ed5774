"""Seconds of a training step over many GPUs: arithmetic, kernel launches, and communication; nothing is measured.

The formulas are those of NCCL's rings (twice the message, over the slowest link on the way) and trees (a wait for each
doubling of the processes), with the links of data sheets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from alitok.apps.plan.hardware import Gpu
from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.train.parallel import Parallel

_BUCKET = 25 * 2**20  # bytes of gradients that DDP sends at a time
_BACKWARD = 2 / 3  # of a step's arithmetic, which hides the sending of gradients

Bound = Literal["arithmetic", "kernel launches", "communication"]


@config
class Assumptions:
    """What a plan assumes; measure it before money depends on it.

    Attributes:
        mfu: fraction of the data sheet's rate that matrix products and convolutions reach.
        launch_seconds: from one small kernel to the next.
        wait_seconds: latency of one message between GPUs.
        link_fraction: of the data sheet's links, reached by large messages.
        bandwidth_fraction: of the memory bandwidth, reached by a step of the sampler.
    """

    mfu: float = 0.4
    launch_seconds: float = 6e-6
    wait_seconds: float = 15e-6
    link_fraction: float = 0.8
    bandwidth_fraction: float = 0.6

    def __post_init__(self) -> None:
        """Reject values outside their ranges."""
        require_at_least(self, 0, "launch_seconds", "wait_seconds")
        for name in ("mfu", "link_fraction", "bandwidth_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise AlitokError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Ring:
    """Links between processes, one per GPU: bytes/s of the slowest, and the seconds that one message waits."""

    processes: int
    bytes_per_second: float
    wait: float

    @classmethod
    def over(cls, gpu: Gpu, processes: int, assumed: Assumptions) -> Ring:
        """The ring over a number of GPUs."""
        slowest = gpu.link if processes <= gpu.per_machine else min(gpu.link, gpu.network)
        return cls(processes, slowest * assumed.link_fraction, assumed.wait_seconds)

    def reduce(self, size: float, messages: int = 1) -> float:
        """Seconds of an all-reduce."""
        return 2 * self.gather(size, messages)

    def gather(self, size: float, messages: int = 1) -> float:
        """Seconds of an all-gather or reduce-scatter of `size` bytes in total."""
        others, doublings = (self.processes - 1) / self.processes, math.ceil(math.log2(self.processes))
        return others * size / self.bytes_per_second + messages * (doublings * self.wait)


@dataclass(frozen=True)
class Messages:
    """What one step sends.

    Attributes:
        blocks: bytes of gradients of all `count` transformer blocks; `block` of the largest.
        whole: bytes of all other gradients, the discriminator's among them.
        small: number of messages that the step waits for: clustering candidates, means, finiteness.
    """

    blocks: int
    whole: int
    block: int
    count: int
    small: int
    small_bytes: int

    def hideable(self, parallel: Parallel, ring: Ring) -> float:
        """Seconds of communication that can overlap with arithmetic."""
        if parallel == "fsdp":  # gathered in both passes, gradients reduce-scattered; all else in one message
            return 2 * ring.gather(self.blocks, self.count) + ring.gather(self.blocks, self.count)
        size = self.blocks + self.whole
        return ring.reduce(size, math.ceil(size / _BUCKET))

    def waited_for(self, parallel: Parallel, ring: Ring) -> float:
        """Seconds of communication that nothing hides: the first gather, the last gradients, small messages."""
        small = ring.reduce(self.small_bytes, self.small)
        if parallel == "fsdp":
            return small + 2 * ring.gather(self.block) + ring.reduce(self.whole)
        return small + ring.reduce(min(_BUCKET, self.blocks + self.whole))


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step; `exposed` is the part of the communication `sent` that nothing hides."""

    arithmetic: float
    launches: float
    sent: float
    exposed: float

    @property
    def seconds(self) -> float:
        """Of the step."""
        return max(self.arithmetic, self.launches) + self.exposed

    @property
    def efficiency(self) -> float:
        """Fraction of the step that is arithmetic at the assumed rate."""
        return self.arithmetic / self.seconds

    @property
    def bound(self) -> Bound:
        """What takes the most time."""
        if self.exposed > max(self.arithmetic, self.launches):
            return "communication"
        return "arithmetic" if self.arithmetic >= self.launches else "kernel launches"


def step_time(
    *,
    flops: float,
    kernels: int,
    microbatches: int,
    rate: float,
    messages: Messages,
    parallel: Parallel,
    ring: Ring,
    assumed: Assumptions,
) -> StepTime:
    """The time of a step of one process; gradients are sent with the last of its microbatches.

    `flops` are of all its images, `kernels` of one microbatch, `rate` is the data sheet's FLOP/s.
    """
    arithmetic = flops / (rate * assumed.mfu)
    launches = kernels * microbatches * assumed.launch_seconds
    if ring.processes == 1:
        return StepTime(arithmetic, launches, 0.0, 0.0)
    hideable, waited = messages.hideable(parallel, ring), messages.waited_for(parallel, ring)
    busy = max(arithmetic, launches)
    if parallel == "ddp":
        hiding = _BACKWARD * busy / microbatches
    else:  # weights are gathered for every microbatch
        hiding, hideable = busy, hideable * microbatches
    return StepTime(arithmetic, launches, hideable + waited, max(0.0, hideable - hiding) + waited)
