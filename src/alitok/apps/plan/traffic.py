"""Seconds of a training step over many GPUs: arithmetic, launches, and what the processes send one another.

Enters: what one process computes and holds, and links from data sheets. Leaves: the time of a step by formula, and
what bounds it. Nothing is measured: the formulas are those of rings (twice the message, over the slowest link on the
way) and trees (a wait for each doubling of the processes), as NCCL's algorithms have them.
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
_BACKWARD = 2 / 3  # of a step's arithmetic, behind which gradients are sent

Bound = Literal["arithmetic", "kernel launches", "communication"]


@config
class Assumptions:
    """What a plan takes for granted; all of it should be measured before money depends on it.

    Attributes:
        mfu: share of the data sheet's rate that matrix products and convolutions reach.
        launch_seconds: from one kernel to the next where kernels are small.
        wait_seconds: for one message from one GPU to another.
        link_share: share of the data sheet's links that large messages reach.
        bandwidth_share: of memory's, that a step of the sampler reaches.
    """

    mfu: float = 0.4
    launch_seconds: float = 6e-6
    wait_seconds: float = 15e-6
    link_share: float = 0.8
    bandwidth_share: float = 0.6

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_at_least(self, 0, "launch_seconds", "wait_seconds")
        for name in ("mfu", "link_share", "bandwidth_share"):
            if not 0 < getattr(self, name) <= 1:
                raise AlitokError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Ring:
    """Links between so many processes.

    Attributes:
        processes: on GPUs of this kind, machine by machine.
        bytes_per_second: of the slowest link that a ring passes; rings use all network cards of a machine together.
        wait: for one message.
    """

    processes: int
    bytes_per_second: float
    wait: float

    @classmethod
    def over(cls, gpu: Gpu, processes: int, assumed: Assumptions) -> Ring:
        """The ring over so many GPUs."""
        slowest = gpu.link if processes <= gpu.together else min(gpu.link, gpu.network)
        return cls(processes, slowest * assumed.link_share, assumed.wait_seconds)

    @property
    def _waits(self) -> float:
        return math.ceil(math.log2(self.processes)) * self.wait if self.processes > 1 else 0.0

    def reduce(self, size: float, messages: int = 1) -> float:
        """Add up over all processes, everywhere: seconds."""
        share = (self.processes - 1) / self.processes
        return 2 * share * size / self.bytes_per_second + 2 * messages * self._waits

    def gather(self, size: float, messages: int = 1) -> float:
        """Put spread weights together everywhere, or spread sums: seconds for `size` bytes when whole."""
        share = (self.processes - 1) / self.processes
        return share * size / self.bytes_per_second + messages * self._waits


@dataclass(frozen=True)
class Messages:
    """What one step of a training sends.

    Attributes:
        blocks: bytes of gradients of the transformer blocks.
        whole: bytes of all other gradients, the discriminator's among them.
        block: bytes of the largest block.
        count: of blocks.
        small: messages that the step waits for: clustering candidates, means, whether all is finite.
        small_bytes: of these.
    """

    blocks: int
    whole: int
    block: int
    count: int
    small: int
    small_bytes: int

    def hideable(self, parallel: Parallel, ring: Ring) -> float:
        """Seconds of what is sent while the arithmetic goes on."""
        if parallel == "fsdp":  # gathered on the way there and back, gradients spread; all else in one message
            return 2 * ring.gather(self.blocks, self.count) + ring.gather(self.blocks, self.count)
        size = self.blocks + self.whole
        return ring.reduce(size, math.ceil(size / _BUCKET))

    def waited_for(self, parallel: Parallel, ring: Ring) -> float:
        """Seconds of what nothing hides: the first gathering, the last gradients, small messages."""
        small = ring.reduce(self.small_bytes, self.small)
        if parallel == "fsdp":
            return small + 2 * ring.gather(self.block) + ring.reduce(self.whole)
        return small + ring.reduce(min(_BUCKET, self.blocks + self.whole))


@dataclass(frozen=True)
class StepTime:
    """One optimizer step.

    Attributes:
        arithmetic: seconds at the assumed share of the rate.
        launches: seconds that the kernels take to start, one after the other.
        sent: seconds of all messages.
        exposed: of these, those that nothing hides.
    """

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
        """Share of the step in which arithmetic at the assumed rate would be done."""
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
    """The time of a step of one process.

    Args:
        flops: of all its images.
        kernels: of one microbatch.
        microbatches: in the step; gradients are sent with the last.
        rate: FLOP/s of the data sheet.
        messages: of the step.
        parallel: what the processes share.
        ring: that the messages go over.
        assumed: what is not known.
    """
    arithmetic = flops / (rate * assumed.mfu)
    launches = kernels * microbatches * assumed.launch_seconds
    if ring.processes == 1:
        return StepTime(arithmetic, launches, 0.0, 0.0)
    hideable, waited = messages.hideable(parallel, ring), messages.waited_for(parallel, ring)
    busy = max(arithmetic, launches)
    if parallel == "ddp":
        behind = _BACKWARD * busy / microbatches
    else:  # weights are gathered for every microbatch
        behind, hideable = busy, hideable * microbatches
    return StepTime(arithmetic, launches, hideable + waited, max(0.0, hideable - behind) + waited)
