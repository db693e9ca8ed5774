"""The one training loop: every stage is a `Task` that this loop steps, logs, saves and resumes.

Enters: a task, `LoopConfig`, a run directory. Leaves: the trained model (its running average when one is kept),
`metrics.jsonl`, `pictures/`, and `checkpoints/` from which the same call continues.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from torch import nn

from alitok.core.checkpoint import Checkpoints, load_strictly, optimizer_tensors, restore_optimizer
from alitok.core.config import config, require_at_least, to_dict
from alitok.core.device import autocast, seed_step
from alitok.core.errors import AlitokError
from alitok.core.runlog import Bar, RunLog, progress_bar
from alitok.train.optim import OptimizerConfig, WeightAverage, learning_rate, make_optimizer


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


@dataclass(frozen=True)
class Trained:
    """What `train` returns."""

    model: nn.Module  # in evaluation mode
    steps: int
    batch_size: int
    step_seconds: float  # spent in steps, over all starts; evaluations and checkpoints are not in it
    earlier_seconds: float  # spent in all, in the starts before this one


class Interrupted(KeyboardInterrupt):
    """The user or the system asked to stop; the state was saved first."""


def train(
    task: Task, config: LoopConfig, directory: Path, *, device: torch.device, seed: int, console: Console
) -> Trained:
    """Train until `config.steps`, from the newest whole checkpoint in `directory` if there is one.

    Raises:
        AlitokError: the loss or a weight is no longer finite, or a checkpoint does not fit the task or `config`.
        Interrupted: SIGINT or SIGTERM came; a checkpoint of the last whole step was written before.
    """
    state = _State(task, config, directory, device)
    for notice in state.restore():
        console.print(notice, highlight=False)
    with (
        RunLog(directory, resume_step=state.step) as log,
        progress_bar(console, task.name, config.steps, state.step) as bar,
        _stop_signals() as stop,
    ):
        batches = task.batches(state.step)
        for step, batch in zip(range(state.step, config.steps), batches, strict=False):
            seed_step(seed, task.name, step)
            inputs, classes = batch
            state.advance((inputs.to(device), classes.to(device)))
            done = step + 1
            last = done == config.steps
            if last or done % config.log_every == 0:
                _log(log, bar, done, state)
            else:
                bar.advance(done)
            if last or done % config.evaluate_every == 0:
                state.pause_clock()
                _evaluate(task, state, log, done)
                state.resume_clock()
            if last or done % config.checkpoint_every == 0 or stop.is_set():
                state.save()
            if stop.is_set():
                raise Interrupted(f"{task.name} stopped at step {done} of {config.steps}")
    return Trained(state.result.eval(), config.steps, config.batch_size, state.step_seconds, state.earlier_seconds)


class _State:
    """Everything a step changes and a checkpoint holds."""

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


def _log(log: RunLog, bar: Bar, step: int, state: _State) -> None:
    means = state.close_window()
    if not math.isfinite(means["loss"]):
        raise AlitokError(not_finite("The loss", step, state.checkpoints))
    log.scalars(step, {**means, "learning_rate": state.rate})
    shown = {"loss": "loss", "accuracy": "accuracy", "images_per_second": "images/s"}
    bar.advance(step, {label: means[name] for name, label in shown.items() if name in means})


@torch.no_grad()
def _evaluate(task: Task, state: _State, log: RunLog, step: int) -> None:
    model = state.result.eval()
    evaluation = task.evaluate(model)
    log.scalars(step, evaluation.scalars)
    for name, picture in evaluation.pictures.items():
        log.picture(step, name, picture, scale=max(1, 512 // picture.shape[-1]))


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event set by the first SIGINT or SIGTERM; a second SIGINT acts at once, as without this."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
