"""What the loop is told: how long to train (`LoopConfig`), and what one kind of training does (`Task`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.train.optim import OptimizerConfig


@config
class LoopConfig:
    """How long, how much at a time, how often what is written.

    Attributes:
        steps: optimizer steps in all.
        batch_size: pictures per step.
        optimizer: AdamW and its schedule.
        log_every: steps between records; each is the mean over its window.
        evaluate_every: steps between looks at held-out pictures.
        checkpoint_every: steps between checkpoints.
        keep: checkpoints kept.
        workers: processes that read pictures ahead; their number changes no result.
    """

    steps: int
    batch_size: int
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        require_at_least(self, 1, "steps", "batch_size", "log_every", "evaluate_every", "checkpoint_every", "keep")
        require_at_least(self, 0, "workers")


@dataclass(frozen=True)
class Evaluation:
    """What a task sees on held-out data: numbers by name and pictures (3, h, w) uint8 by name."""

    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


Batch = tuple[torch.Tensor, torch.Tensor]


class Task(Protocol):
    """One kind of training."""

    name: str
    model: nn.Module

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Endless CPU batches; the first is that of `start_step`."""

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Named scalars of one batch on the model's device; `loss` is minimised, the others are logged."""

    def after_backward(self) -> None:
        """What a step does besides the optimizer; parameters still hold the values of the forward pass."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Look at held-out data with `model` (the average of the task's model, when one is kept)."""
