"""The one training loop: every stage is a `Task` that this loop steps, logs, saves and resumes.

Enters: a task, `LoopConfig`, a run directory. Leaves: the trained model (its running average when one is kept),
`metrics.jsonl`, `pictures/`, and `checkpoints/` from which the same call continues.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from torch import nn

from alitok.core.device import seed_step
from alitok.core.errors import AlitokError
from alitok.core.runlog import Bar, RunLog, progress_bar
from alitok.train.state import TrainingState, not_finite
from alitok.train.task import LoopConfig, Task


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
    state = TrainingState(task, config, directory, device)
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


def _log(log: RunLog, bar: Bar, step: int, state: TrainingState) -> None:
    means = state.close_window()
    if not math.isfinite(means["loss"]):
        raise AlitokError(not_finite("The loss", step, state.checkpoints))
    log.scalars(step, {**means, "learning_rate": state.rate})
    shown = {"loss": "loss", "accuracy": "accuracy", "images_per_second": "images/s"}
    bar.advance(step, {label: means[name] for name, label in shown.items() if name in means})


@torch.no_grad()
def _evaluate(task: Task, state: TrainingState, log: RunLog, step: int) -> None:
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
