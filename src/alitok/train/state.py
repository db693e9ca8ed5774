"""Everything a training step changes and a checkpoint holds.

Enters: a task, its `LoopConfig` and a run directory. Leaves: one optimizer step at a time, whole checkpoints, and the
state of the newest one again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alitok.core.checkpoint import Checkpoints, load_strictly, optimizer_tensors, restore_optimizer
from alitok.core.config import to_dict
from alitok.core.device import autocast
from alitok.core.errors import AlitokError
from alitok.train.optim import WeightAverage, learning_rate, make_optimizer
from alitok.train.task import Batch, LoopConfig, Task


class TrainingState:
    """Model, optimizer, average, clock and window of losses of one run.

    Args:
        task: what is trained.
        config: how long and how.
        directory: of the run; checkpoints go below it.
        device: where to compute.
    """

    def __init__(self, task: Task, config: LoopConfig, directory: Path, device: torch.device) -> None:
        self.task, self.config, self.device = task, config, device
        self.model = task.model.to(device)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        decay = config.optimizer.ema_decay
        self.average = WeightAverage(self.model, decay) if decay else None
        self.checkpoints = Checkpoints(directory / "checkpoints", config.keep)
        self.step, self.rate = 0, 0.0
        self.window = _Window()
        self.step_seconds, self.earlier_seconds = 0.0, 0.0
        self._began = self._clock = time.monotonic()

    @property
    def result(self) -> nn.Module:
        """The model to look at and to keep."""
        return self.model if self.average is None else self.average.model

    def advance(self, batch: Batch) -> None:
        """One optimizer step; its losses are added to the window."""
        optimizer_config = self.config.optimizer
        self.rate = learning_rate(self.step, self.config.steps, optimizer_config)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.model.train()
        with autocast(self.device):
            losses = self.task.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.task.after_backward()
        if optimizer_config.clip:
            trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
            losses["gradient_norm"] = nn.utils.clip_grad_norm_(trainable, optimizer_config.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        self.step += 1
        self.window.add({name: value.detach() for name, value in losses.items()})

    def pause_clock(self) -> None:
        """What follows is no step."""
        self.step_seconds += time.monotonic() - self._clock
        self.window.seconds += time.monotonic() - self._clock

    def resume_clock(self) -> None:
        """Steps follow."""
        self._clock = time.monotonic()

    def close_window(self) -> dict[str, float]:
        """The means since the last call, with `images_per_second`."""
        means = self.window.mean()  # waits for the device, so the clock is read behind it
        self.pause_clock()
        self.resume_clock()
        means["images_per_second"] = self.window.steps * self.config.batch_size / self.window.seconds
        self.window = _Window()
        return means

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            AlitokError: a weight is not a finite number; nothing is written then.
        """
        self.pause_clock()
        if not all(bool(p.isfinite().all()) for p in self.model.parameters() if p.requires_grad):
            raise AlitokError(not_finite("A weight", self.step, self.checkpoints))
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "window": self.window.sums,
        }
        if self.average is not None:
            tensors["average"] = self.average.model.state_dict()
        self.checkpoints.save(self.step, tensors, self._description())
        self.resume_clock()

    def _description(self) -> dict[str, Any]:
        model_config = getattr(self.model, "config", None)
        return {
            "task": self.task.name,
            "loop": to_dict(self.config),
            "model": None if model_config is None else to_dict(model_config),
            "average_updates": 0 if self.average is None else self.average.updates,
            "window": {"steps": self.window.steps, "seconds": self.window.seconds},
            "step_seconds": self.step_seconds,
            "seconds": self.earlier_seconds + time.monotonic() - self._began,
        }

    def restore(self) -> list[str]:
        """Continue from the newest whole checkpoint; returns a sentence for each damaged one that was passed over."""
        names = ["model", "optimizer", "window"] + (["average"] if self.average is not None else [])
        latest = self.checkpoints.load_latest(names, self._description())
        if latest is None:
            return []
        state, tensors, damaged = latest
        source = self.checkpoints.path(state["step"])
        mine = self._description()
        if any(state[key] != mine[key] for key in ("task", "loop", "model")):
            raise AlitokError(f"{source} was written with another configuration; give its run another directory.")
        load_strictly(self.model, tensors["model"], source)
        restore_optimizer(self.model, self.optimizer, tensors["optimizer"])
        if self.average is not None:
            load_strictly(self.average.model, tensors["average"], source)
            self.average.updates = state["average_updates"]
        sums = {name: value.to(self.device) for name, value in tensors["window"].items()}
        self.window = _Window(sums, state["window"]["steps"], state["window"]["seconds"])
        self.step, self.step_seconds, self.earlier_seconds = state["step"], state["step_seconds"], state["seconds"]
        return damaged


@dataclass
class _Window:
    """Losses over some steps, summed on the device so that no step waits for a number."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1

    def mean(self) -> dict[str, float]:
        return {name: value.item() / self.steps for name, value in self.sums.items()}


def not_finite(what: str, step: int, checkpoints: Checkpoints) -> str:
    """The sentence for a training that ran away."""
    steps = checkpoints.steps()
    kept = f"the last checkpoint is {checkpoints.path(steps[-1])}" if steps else "no checkpoint was written yet"
    return (
        f"{what} is not a finite number at step {step}; {kept}. "
        "Lower the learning rate and train this stage in another directory."
    )
