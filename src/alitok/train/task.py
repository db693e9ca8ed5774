"""What the loop is told: how to train (`LoopConfig`, `EngineConfig`), and what one kind of training does (`Task`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.device import Precision
from alitok.core.distributed import World
from alitok.train.optim import OptimizerConfig
from alitok.train.parallel import Parallel
from alitok.train.schedule import Phase


@config
class LoopConfig:
    """How much at a time, how often what is written, and what happens when a step fails.

    Attributes:
        batch_size: images per optimizer step, over all processes and microbatches.
        optimizer: AdamW.
        log_every: steps between records; each is the mean over its window.
        evaluate_every: steps between looks at validation images.
        checkpoint_every: steps between checkpoints.
        keep: checkpoints kept.
        max_skips: steps in a row that may be left out because the loss or a gradient is not a finite number; then
            the last checkpoint is restored and training goes on with the data behind them.
        max_restores: times that may happen before training gives up.
    """

    batch_size: int
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    max_skips: int = 10
    max_restores: int = 3

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        require_at_least(self, 1, "batch_size", "log_every", "evaluate_every", "checkpoint_every", "keep", "max_skips")
        require_at_least(self, 0, "max_restores")


@config
class EngineConfig:
    """How the work is laid over the machine. It may differ from one start of a run to the next.

    Attributes:
        precision: of the forward pass; auto is bf16 on devices that compute in it.
        grad_accum_steps: microbatches that a process's share of the batch is cut into.
        parallel: what several processes share: `ddp` the data, `fsdp` also the blocks' weights.
        compile: compile the transformer blocks.
        activation_checkpointing: keep no activations inside blocks; less memory for a third more work.
        workers: processes that read images ahead, for each training process; their number changes no result.
    """

    precision: Precision = "auto"
    grad_accum_steps: int = 1
    parallel: Parallel = "ddp"
    compile: bool = False
    activation_checkpointing: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that make no sense."""
        require_at_least(self, 1, "grad_accum_steps")
        require_at_least(self, 0, "workers")


@dataclass(frozen=True)
class Evaluation:
    """What a task has to tell: by name, numbers, curves and images (3, h, w) uint8; and sentences for the user."""

    scalars: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


Batch = tuple[torch.Tensor, torch.Tensor]


class StepInfo(NamedTuple):
    """Where in its phases a run is."""

    phase: int  # index into the task's phases
    phase_step: int  # steps done in it
    step: int  # steps done in all


class LossTerms(NamedTuple):
    """What one forward pass gives."""

    minimise: torch.Tensor  # scalar, differentiable
    logged: dict[str, torch.Tensor]  # scalars by name; `loss` must be among those of a task's first pass


class Task(Protocol):
    """One kind of training."""

    name: str  # of the run, for people and for the checkpoint

    @property
    def phases(self) -> Sequence[Phase]:
        """The plan."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained, each with an optimizer of its own where it has trainable parameters.

        `model` is the result; it alone has a running average. All are kept in checkpoints, buffers included.
        """

    @property
    def optimizers(self) -> Mapping[str, OptimizerConfig]:
        """Those of the modules other than `model`."""

    @property
    def batches(self) -> Callable[[int], Iterator[Batch]]:
        """Batch number -> this process's parts of the endless batches from there on, on the CPU."""

    def to(self, device: torch.device) -> None:
        """Move all modules, and what else the losses need."""

    def begin(self) -> None:
        """A step begins: forget what the last one gathered for `update`."""

    def losses(self, models: Mapping[str, nn.Module], batch: Batch, moment: StepInfo) -> Iterator[LossTerms]:
        """The forward passes over one microbatch, one by one: each is sent back before the next is asked for.

        Args:
            models: the modules by name, to be called in their stead: they know of the other processes.
            batch: a microbatch, on the device.
            moment: where in the phases.
        """

    def update(self, world: World) -> None:
        """What a step changes besides the optimizers; parameters still hold the values of the forward passes."""

    def report(self) -> Evaluation:
        """What to log besides the terms, each time they are logged; the same on every process."""

    def evaluate(self, step: int) -> Evaluation:
        """Look at validation data with the modules as they are (holding the average, when there is one)."""
