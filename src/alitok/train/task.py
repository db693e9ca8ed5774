"""The loop's configuration (`LoopConfig`, `EngineConfig`) and the interface of one kind of training (`Task`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
    """Batch size, optimizer, logging intervals, and what happens when a step is not finite.

    Attributes:
        batch_size: images per optimizer step, over all ranks and microbatches.
        log_every: steps between log records; each is the mean over its window.
        evaluate_every: steps between evaluations on validation data.
        checkpoint_every: steps between checkpoints.
        max_skips: consecutive non-finite steps to skip; then the last checkpoint is restored, with the data after them.
        max_restores: how often that may happen before training fails.
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
        require_at_least(self, 1, "batch_size", "log_every", "evaluate_every", "checkpoint_every", "keep", "max_skips")
        require_at_least(self, 0, "max_restores")


@config
class EngineConfig:
    """How the work is mapped to the machine. It may change whenever a run is resumed.

    Attributes:
        precision: of the forward pass; auto is bf16 where the device supports it.
        grad_accum_steps: gradient accumulation steps (microbatches per rank and optimizer step).
        parallel: `ddp` replicates the weights, `fsdp` shards those of the transformer blocks.
        activation_checkpointing: recompute activations inside blocks: less memory for a third more work.
        workers: data-loading processes per rank; their number does not change results.
    """

    precision: Precision = "auto"
    grad_accum_steps: int = 1
    parallel: Parallel = "ddp"
    compile: bool = False
    activation_checkpointing: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "grad_accum_steps")
        require_at_least(self, 0, "workers")


@dataclass(frozen=True)
class Evaluation:
    """What a task reports, by name: scalars, curves, images (3, h, w) uint8; and notices for the user."""

    scalars: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


Batch = tuple[torch.Tensor, torch.Tensor]


class StepInfo(NamedTuple):
    """Position of a run in its phases."""

    phase: int  # index into the task's phases
    phase_step: int  # steps completed in this phase
    step: int  # steps completed in total


class LossTerms(NamedTuple):
    """Losses of one forward pass."""

    minimise: torch.Tensor  # scalar, differentiable
    logged: dict[str, torch.Tensor]  # scalars by name; a task's first pass must include `loss`


class Task(ABC):
    """One kind of training: what the loop needs of it. The constructor sets the class attributes.

    Each of `modules` with trainable parameters gets its own optimizer, and all are saved in checkpoints, buffers
    included. `model` is the result, and the only one with an EMA; `optimizers` has the configs of the others. `batches`
    maps a batch number to this rank's part of the endless stream of batches from there on, on the CPU.
    """

    name: str
    phases: Sequence[Phase]
    modules: dict[str, nn.Module]
    optimizers: dict[str, OptimizerConfig]
    batches: Callable[[int], Iterator[Batch]]

    def to(self, device: torch.device) -> None:
        """Move all modules, and whatever else the losses need."""
        for module in self.modules.values():
            module.to(device)

    def begin(self) -> None:  # noqa: B027 (most tasks collect nothing)
        """Start a step: discard what the previous one collected for `update`."""

    @abstractmethod
    def losses(self, models: Mapping[str, nn.Module], batch: Batch, info: StepInfo) -> Iterator[LossTerms]:
        """Forward passes over one microbatch; the engine runs the backward pass of each before asking for the next.

        `models` are the modules by name, wrapped for DDP; call these, not the modules.
        """

    def update(self, world: World) -> None:  # noqa: B027
        """Update state outside the optimizers, before their step (parameters are still those of the forward pass)."""

    def report(self) -> Evaluation:
        """What to log in addition to the loss terms; the same on every rank."""
        return Evaluation()

    @abstractmethod
    def evaluate(self, step: int) -> Evaluation:
        """Evaluate on validation data with the current weights (the EMA, if there is one)."""
