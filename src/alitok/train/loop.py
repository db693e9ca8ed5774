"""The one training loop: it steps, logs, evaluates, saves and resumes any `Task`.

It writes `metrics.jsonl`, `images/` and `checkpoints/` to the run directory; the same call resumes from the latter.
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

    weights: dict[str, torch.Tensor]  # final state dict (EMA if enabled), on the CPU of rank 0; empty elsewhere
    steps: int
    batch_size: int
    step_seconds: float  # in training steps over all starts, without evaluations and checkpoints
    earlier_seconds: float  # total of the starts before this one


class Interrupted(KeyboardInterrupt):
    """SIGINT, or SIGTERM if `terminated`, was received; the state has been saved."""

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
    """Train to the end of the last phase, resuming from the newest complete checkpoint in `directory` if there is one.

    Raises:
        AlitokError: losses or gradients stay non-finite, or a checkpoint does not match the task or `config`.
        Interrupted: any rank received SIGINT or SIGTERM; a checkpoint was written.
    """
    state = TrainingState(task, config, engine or EngineConfig(), directory, world)
    _print(console, world, *(state.restore() or []))
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
                # The signal may have reached one rank only; all exit with the same status.
                raise Interrupted(where, signal.SIGTERM in world.gather(stop.number))
    weights = state.finished_weights()
    return Trained(weights, state.progress.step, config.batch_size, state.step_seconds, state.earlier_seconds)


@dataclass
class _Run:
    """One start of a training."""

    state: TrainingState
    task: Task
    config: LoopConfig
    log: RunLog | None  # on rank 0 only
    bar: Bar
    console: Console
    seed: int

    def steps_until_restart(self, stop: _Stop) -> bool:
        """Train until done or asked to stop (True), or until the batch stream must restart at another batch."""
        state, world = self.state, self.state.world
        purpose = self.task.name if world.rank == 0 else f"{self.task.name}/{world.rank}"
        for batch in self.task.batches(state.batch_number):
            seed_step(self.seed, purpose, state.batch_number)
            stopping, notices = state.advance(batch, stop.requested)
            self._print(*notices)
            if state.guard.in_a_row >= self.config.max_skips:
                self._restore()
                return False
            self._after_step()
            if stopping or state.progress.done:
                return stopping
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
        scalars = {**means, **extra.scalars, "learning_rate": state.rate, **phase}
        self._record(dataclasses.replace(extra, scalars=scalars))
        shown = {"loss": "loss", "accuracy": "accuracy", "images_per_second": "images/s", "skipped_steps": "skipped"}
        numbers = {label: means[name] for name, label in shown.items() if name in means}
        self.bar.advance(state.progress.step, numbers, total=state.progress.total)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Run on every rank, since sharded models need all of them."""
        for module in self.task.modules.values():
            module.eval()
        with self.state.ema_weights(), torch.compiler.set_stance("force_eager"):
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
        self._print(*evaluation.notices)

    def _restore(self) -> None:
        """Restore a checkpoint and go on with later data; AlitokError without one, or past `max_restores`."""
        state, guard, next_batch = self.state, self.state.guard, self.state.batch_number
        failed_at = state.progress.step
        what = f"The loss or a gradient was not finite in {guard.in_a_row} consecutive steps, up to step {failed_at}"
        advice = "Lower the learning rate and train this stage in another directory."
        if guard.restores >= self.config.max_restores:
            raise AlitokError(f"{what}, after {guard.restores} restores. {advice}")
        if not state.world.on_rank0(state.checkpoints.steps):
            raise AlitokError(f"{what}, and no checkpoint exists yet. {advice}")
        damaged = state.restore() or []
        state.guard = dataclasses.replace(
            guard, in_a_row=0, restores=guard.restores + 1, shift=next_batch - state.progress.step
        )
        if self.log is not None:
            self.log.forget_after(state.progress.step)
        self._print(
            *damaged,
            f"{what}: restored the checkpoint of step {state.progress.step} (restore {state.guard.restores} of "
            f"{self.config.max_restores}); training continues with the data after those steps.",
        )

    def _print(self, *messages: str) -> None:
        _print(self.console, self.state.world, *messages)


def _print(console: Console, world: World, *messages: str) -> None:
    for message in messages if world.main else ():
        console.print(message, highlight=False)


class _Stop:
    """The signal that asked to stop, if any."""

    number: int | None = None

    def requested(self) -> bool:
        return self.number is not None


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Record the first SIGINT or SIGTERM; a second SIGINT interrupts at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():  # handlers can be set in the main thread only
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = stop.number or number

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
