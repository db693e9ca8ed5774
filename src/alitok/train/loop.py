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
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.optim.swa_utils import AveragedModel

from alitok.core.checkpoint import Checkpoints, load_strictly, optimizer_tensors, restore_optimizer
from alitok.core.config import config
from alitok.core.device import autocast, seed_step
from alitok.core.errors import AlitokError
from alitok.core.runlog import Bar, RunLog, progress_bar
from alitok.train.optim import OptimizerConfig, learning_rate, make_average, make_optimizer


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
    """

    steps: int
    batch_size: int
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


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
    seconds: float  # spent training, over all resumes
    batch_size: int


class Interrupted(KeyboardInterrupt):
    """The user or the system asked to stop; the state was saved first."""


def train(
    task: Task, config: LoopConfig, directory: Path, *, device: torch.device, seed: int, console: Console
) -> Trained:
    """Train until `config.steps`, from the newest checkpoint in `directory` if there is one.

    Raises:
        AlitokError: the loss is no longer finite, or a checkpoint does not fit the task's model.
        Interrupted: SIGINT or SIGTERM came; a checkpoint of the last whole step was written before.
    """
    state = _State(task, config, directory, device)
    with (
        RunLog(directory, resume_step=state.step) as log,
        progress_bar(console, task.name, config.steps, state.step) as bar,
        _stop_signals() as stop,
    ):
        batches = task.batches(state.step)
        window = _Window(config.batch_size)
        for step, batch in zip(range(state.step, config.steps), batches, strict=False):
            seed_step(seed, task.name, step)
            inputs, classes = batch
            window.add(state.advance((inputs.to(device), classes.to(device))))
            done = step + 1
            last = done == config.steps
            if last or done % config.log_every == 0:
                _log(log, bar, done, window.mean(), state.rate, state.checkpoints)
                window = _Window(config.batch_size)
            else:
                bar.advance(done)
            if last or done % config.evaluate_every == 0:
                _evaluate(task, state, log, done)
            if last or done % config.checkpoint_every == 0 or stop.is_set():
                state.save()
            if stop.is_set() and not last:
                raise Interrupted(f"{task.name} stopped at step {done} of {config.steps}")
    return Trained(state.result.eval(), config.steps, state.seconds, config.batch_size)


class _State:
    """Everything a step changes and a checkpoint holds."""

    def __init__(self, task: Task, config: LoopConfig, directory: Path, device: torch.device) -> None:
        self.task, self.config, self.device = task, config, device
        self.model = task.model.to(device)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        decay = config.optimizer.ema_decay
        self.average: AveragedModel | None = make_average(self.model, decay) if decay else None
        self.checkpoints = Checkpoints(directory / "checkpoints", config.keep)
        self.step, self.seconds, self.rate = 0, 0.0, 0.0
        self._restore()
        self._began = time.monotonic()

    @property
    def result(self) -> nn.Module:
        """The model to look at and to keep."""
        return self.model if self.average is None else self.average.module

    def advance(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimizer step; returns the detached losses."""
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
            norm = nn.utils.clip_grad_norm_(trainable, optimizer_config.clip)
            losses["gradient_norm"] = norm
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return {name: value.detach() for name, value in losses.items()}

    def save(self) -> None:
        now = time.monotonic()
        self.seconds, self._began = self.seconds + now - self._began, now
        tensors = {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.model, self.optimizer)}
        if self.average is not None:
            tensors["average"] = self.average.state_dict()
        self.checkpoints.save(self.step, tensors, {"task": self.task.name, "seconds": self.seconds})

    def _restore(self) -> None:
        names = ["model", "optimizer"] + (["average"] if self.average is not None else [])
        latest = self.checkpoints.load_latest(names)
        if latest is None:
            return
        state, tensors = latest
        source = self.checkpoints.path(state["step"])
        load_strictly(self.model, tensors["model"], source)
        restore_optimizer(self.model, self.optimizer, tensors["optimizer"])
        if self.average is not None:
            load_strictly(self.average, tensors["average"], source)
        self.step, self.seconds = state["step"], state["seconds"]


class _Window:
    """Means of losses over some steps, summed on the device so that no step waits for a number."""

    def __init__(self, batch_size: int) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count, self._batch_size, self._began = 0, batch_size, time.monotonic()

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def mean(self) -> dict[str, float]:
        means = {name: value.item() / self._count for name, value in self._sums.items()}
        means["images_per_second"] = self._count * self._batch_size / (time.monotonic() - self._began)
        return means


def _log(log: RunLog, bar: Bar, step: int, means: dict[str, float], rate: float, checkpoints: Checkpoints) -> None:
    if not math.isfinite(means["loss"]):
        steps = checkpoints.steps()
        kept = f"the last checkpoint is {checkpoints.path(steps[-1])}" if steps else "no checkpoint was written yet"
        raise AlitokError(
            f"The loss is not a finite number at step {step}; {kept}. Lower the learning rate and run again."
        )
    log.scalars(step, {**means, "learning_rate": rate})
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
