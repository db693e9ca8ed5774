"""The one training loop: every stage is a `Task` that this loop steps, logs, saves and resumes.

Enters: a task, `LoopConfig`, `EngineConfig`, a run directory, the processes. Leaves: the trained weights (their running
average when one is kept), `metrics.jsonl`, `images/`, and `checkpoints/` from which the same call continues.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

from alitok.core.console import Bar, progress_bar
from alitok.core.device import seed_step
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.runlog import RunLog
from alitok.train.state import TrainingState
from alitok.train.task import EngineConfig, Evaluation, LoopConfig, Task


@dataclass(frozen=True)
class Trained:
    """What `train` returns."""

    weights: dict[str, torch.Tensor]  # the state dict to keep, on the CPU of the first process; elsewhere empty
    steps: int
    batch_size: int
    step_seconds: float  # spent in steps, over all starts; evaluations and checkpoints are not in it
    earlier_seconds: float  # spent in all, in the starts before this one


class Interrupted(KeyboardInterrupt):
    """The user or the system asked to stop; the state was saved first.

    Args:
        message: where it stopped.
        terminated: by the system (SIGTERM), not by the user (SIGINT).
    """

    def __init__(self, message: str, terminated: bool) -> None:
        super().__init__(message)
        self.terminated = terminated


def train(
    task: Task,
    config: LoopConfig,
    directory: Path,
    *,
    world: World,
    seed: int,
    console: Console,
    engine: EngineConfig | None = None,
) -> Trained:
    """Train to the end of the last phase, from the newest whole checkpoint in `directory` if there is one.

    Raises:
        AlitokError: loss or gradients stay without finite values, or a checkpoint does not fit the task or `config`.
        Interrupted: SIGINT or SIGTERM came to any process; a checkpoint of the last whole step was written before.
    """
    state = TrainingState(task, config, engine or EngineConfig(), directory, world)
    for notice in state.restore() or []:
        _tell(console, world, notice)
    with ExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        log = stack.enter_context(RunLog(directory, resume_step=state.progress.step)) if world.main else None
        bar = stack.enter_context(progress_bar(console, task.name, state.progress.total, state.progress.step))
        run = _Run(state, task, config, log, bar, console, seed)
        while not state.progress.done:
            if run.steps_until_restart(stop):
                state.pause_clock()
                state.save()
                where = f"{task.name} stopped at step {state.progress.step} of {state.progress.total}"
                # The signal may have reached one process only, and all are to end with the same status.
                raise Interrupted(where, signal.SIGTERM in world.gather(stop.number))
    weights = state.finished_weights()
    return Trained(weights, state.progress.step, config.batch_size, state.step_seconds, state.earlier_seconds)


@dataclass
class _Run:
    """One start of a training, with all that its steps need."""

    state: TrainingState
    task: Task
    config: LoopConfig
    log: RunLog | None  # on the first process only
    bar: Bar
    console: Console
    seed: int

    def steps_until_restart(self, stop: _Stop) -> bool:
        """Train until all is done, until asked to stop (True), or until the stream of batches must begin anew."""
        state, world = self.state, self.state.world
        purpose = self.task.name if world.rank == 0 else f"{self.task.name}/{world.rank}"
        for batch in self.task.batches(state.batch_number):
            seed_step(self.seed, purpose, state.batch_number)
            asked, notices = state.advance(batch, stop.requested)
            self._tell(*notices)
            if state.health.in_a_row >= self.config.max_skips:
                self._restore()
                return False
            self._after_step()
            if asked or state.progress.done:
                return asked
        raise AssertionError("batches never end")

    def _after_step(self) -> None:
        state, config, step = self.state, self.config, self.state.progress.step
        last = state.progress.done
        self.bar.advance(step)
        if last or step % config.log_every == 0:
            self._log()
        if last or step % config.evaluate_every == 0:
            state.pause_clock()
            self._evaluate()
            state.resume_clock()
        if last or step % config.checkpoint_every == 0:
            state.save()

    def _log(self) -> None:
        state = self.state
        means, extra = state.close_window(), self.task.report()
        phase = {"phase": float(state.progress.phase)} if len(state.progress.phases) > 1 else {}
        self._record(
            dataclasses.replace(extra, scalars={**means, **extra.scalars, "learning_rate": state.rate, **phase})
        )
        shown = {"loss": "loss", "accuracy": "accuracy", "images_per_second": "images/s", "skipped_steps": "skipped"}
        numbers = {label: means[name] for name, label in shown.items() if name in means}
        self.bar.advance(state.progress.step, numbers, total=state.progress.total)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """On every process, as sharded models need all of them."""
        modules = self.task.modules.values()
        for module in modules:
            module.eval()
        with self.state.averaged(), torch.compiler.set_stance("force_eager"):
            self._record(self.task.evaluate(self.state.progress.step))

    def _record(self, evaluation: Evaluation) -> None:
        step = self.state.progress.step
        if self.log is not None:
            if evaluation.scalars:
                self.log.scalars(step, evaluation.scalars)
            for name, curve in evaluation.curves.items():
                self.log.curve(step, name, curve)
            for name, image in evaluation.images.items():
                self.log.image(step, name, image, scale=max(1, 512 // image.shape[-1]))
        self._tell(*evaluation.notices)

    def _restore(self) -> None:
        """Go back to the last checkpoint, and on with the data behind the batches that failed.

        Raises:
            AlitokError: there is no checkpoint, or this has been done too often.
        """
        state, failed_at = self.state, self.state.progress.step
        health, next_batch = state.health, state.batch_number
        what = f"The loss or a gradient was not a finite number in {health.in_a_row} steps in a row, up to {failed_at}"
        advice = "Lower the learning rate and train this stage in another directory."
        if health.restores >= self.config.max_restores:
            raise AlitokError(f"{what}, after {health.restores} restored checkpoints. {advice}")
        if not state.world.on_rank0(state.checkpoints.steps):
            raise AlitokError(f"{what}, and no checkpoint was written yet. {advice}")
        damaged = state.restore() or []
        state.health = dataclasses.replace(
            health, in_a_row=0, restores=health.restores + 1, shift=next_batch - state.progress.step
        )
        if self.log is not None:
            self.log.forget_after(state.progress.step)
        self._tell(
            *damaged,
            f"{what}: the checkpoint of step {state.progress.step} was restored (restore {state.health.restores} of "
            f"{self.config.max_restores}), and training goes on with the data behind those steps.",
        )

    def _tell(self, *sentences: str) -> None:
        for sentence in sentences:
            _tell(self.console, self.state.world, sentence)


def _tell(console: Console, world: World, sentence: str) -> None:
    if world.main:
        console.print(sentence, highlight=False)


class _Stop:
    """Which signal asked to stop, if any."""

    number: int | None = None

    def requested(self) -> bool:
        return self.number is not None


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Remembers the first SIGINT or SIGTERM; a second SIGINT acts at once, as without this."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = stop.number or number

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
