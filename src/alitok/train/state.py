"""Everything a training step changes and a checkpoint holds.

Enters: a task, its configuration, a run directory and the processes. Leaves: one optimizer step at a time, whole
checkpoints, and the state of the newest one again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alitok.core.config import to_dict
from alitok.core.console import counted
from alitok.core.device import autocast
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.train import parallel
from alitok.train.checkpoint import Checkpoints
from alitok.train.optim import WeightAverage, clip_gradients, gradient_norm, make_optimizer, trainable
from alitok.train.schedule import Progress, describe
from alitok.train.task import Batch, EngineConfig, LoopConfig, LossTerms, StepInfo, Task


@dataclass
class TrainedModule:
    """A module that is trained, and its optimizer."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    clip: float
    parameters: list[nn.Parameter]


@dataclass
class NonFiniteGuard:
    """What the guard remembers.

    Attributes:
        skipped: steps left out so far, because the loss or a gradient was not a finite number.
        in_a_row: of them, those since the last good step.
        restores: times a checkpoint was restored because of it.
        shift: batches that were passed over by restoring: step s is given batch s + shift.
    """

    skipped: int = 0
    in_a_row: int = 0
    restores: int = 0
    shift: int = 0


class TrainingState:
    """Modules, optimizers, average, progress, clock and window of losses of one run.

    Args:
        task: what is trained.
        config: how.
        engine: how the work is laid over the machine.
        directory: of the run; checkpoints go below it.
        world: the processes.

    Raises:
        AlitokError: the batch does not divide over processes and microbatches.
    """

    def __init__(self, task: Task, config: LoopConfig, engine: EngineConfig, directory: Path, world: World) -> None:
        if config.batch_size % (world.size * engine.grad_accum_steps):
            processes = counted(world.size, "process", "processes")
            raise AlitokError(
                f"batch_size {config.batch_size} does not divide over {processes} and "
                f"{counted(engine.grad_accum_steps, 'microbatch', 'microbatches')} each; choose another batch_size or "
                "engine.grad_accum_steps."
            )
        self.task, self.config, self.engine, self.world = task, config, engine, world
        task.to(world.device)
        self.model = task.modules["model"]
        self._lay_out()
        self.players = {name: self._player(name, module) for name, module in task.modules.items() if trainable(module)}
        decay = config.optimizer.ema_decay
        self.average = WeightAverage(self.model, decay) if decay else None
        self.checkpoints = Checkpoints(directory / "checkpoints", config.keep, world)
        self.progress, self.health, self.window = Progress(task.phases), NonFiniteGuard(), _Window()
        self.rate = 0.0
        self.step_seconds, self.earlier_seconds = 0.0, 0.0
        self._began = self._clock = time.monotonic()

    def _lay_out(self) -> None:
        engine, world = self.engine, self.world
        if engine.activation_checkpointing:
            parallel.checkpoint_activations(self.model)
        if engine.compile:
            parallel.compile_blocks(self.model)
        if engine.parallel == "fsdp" and world.size > 1:
            parallel.shard(self.model, world)
        self.callables = {name: parallel.replicate(module, world) for name, module in self.task.modules.items()}

    def _player(self, name: str, module: nn.Module) -> TrainedModule:
        config = self.config.optimizer if name == "model" else self.task.optimizers[name]
        return TrainedModule(module, make_optimizer(module, config), config.clip, trainable(module))

    @property
    def batch_number(self) -> int:
        """Which batch of the endless stream the next step takes."""
        return self.progress.step + self.health.shift

    def advance(self, batch: Batch, stop: Callable[[], bool]) -> tuple[bool, list[str]]:
        """One optimizer step on this process's part of a batch; its losses are added to the window.

        Args:
            batch: on the CPU or the device.
            stop: whether this process was asked to stop; looked at late in the step.

        Returns:
            Whether any process was asked to stop, and sentences for the user.
        """
        self.rate = self.progress.rate * self.config.optimizer.rate_factor(self.config.batch_size)
        self.task.begin()
        for player in self.players.values():
            player.module.train()
            player.optimizer.zero_grad(set_to_none=True)
        terms = self._backward(batch)
        norms = {name: gradient_norm(player.parameters, self.world.device) for name, player in self.players.items()}
        finite, stopped = self._agree([*norms.values(), *terms.values()], stop())
        if finite:
            self._apply(norms)
            terms["gradient_norm"] = norms["model"]
            self.window.add(terms)
            self.health.in_a_row = 0
        else:
            self.health.skipped += 1
            self.health.in_a_row += 1
        loss = None
        if finite and self.progress.watches_loss() and "loss" in terms:
            loss = self.world.mean(terms["loss"].float().clone()).item()
        ended = self.progress.advance(loss)
        return stopped, [ended] if ended else []

    def _backward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Gradients of the whole batch; returns the mean terms over this process's microbatches."""
        count = self.engine.grad_accum_steps
        moment = StepInfo(self.progress.phase, self.progress.phase_step, self.progress.step)
        sums: dict[str, torch.Tensor] = {}
        parts = zip(*(tensor.chunk(count) for tensor in batch), strict=True)
        for number, (inputs, classes) in enumerate(parts, start=1):
            part = inputs.to(self.world.device, non_blocking=True), classes.to(self.world.device, non_blocking=True)
            with parallel.exchanged(list(self.callables.values()), last=number == count):
                for terms in self._forward(part, moment):
                    (terms.minimise / count).backward()
                    for name, value in terms.logged.items():
                        sums[name] = sums.get(name, 0.0) + value.detach() / count
        for player in self.players.values():
            parallel.average_whole(player.module, self.world)
        return sums

    def _forward(self, batch: Batch, moment: StepInfo) -> Iterator[LossTerms]:
        passes = self.task.losses(self.callables, batch, moment)
        while True:
            with autocast(self.world.device, self.engine.precision):
                terms = next(passes, None)
            if terms is None:
                return
            yield terms

    def _agree(self, values: list[torch.Tensor], stop: bool) -> tuple[bool, bool]:
        """Whether all values are finite on all processes, and whether any was asked to stop; the step's one wait."""
        bad = ~torch.stack([value.detach().float() for value in values]).isfinite().all()
        flags = torch.stack([bad, torch.tensor(stop, device=bad.device)]).to(torch.int32)
        failed, stopped = self.world.maximum(flags).tolist()
        return not failed, bool(stopped)

    def _apply(self, norms: dict[str, torch.Tensor]) -> None:
        self.task.update(self.world)
        for name, player in self.players.items():
            if player.clip:
                clip_gradients(player.parameters, norms[name], player.clip)
            for group in player.optimizer.param_groups:
                group["lr"] = self.rate
            player.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)

    def averaged(self) -> AbstractContextManager[None]:
        """The model holds the weights to look at and to keep while the context lasts."""
        return nullcontext() if self.average is None else self.average.applied(self.model)

    def pause_clock(self) -> None:
        """What follows is no step."""
        now = time.monotonic()
        self.step_seconds += now - self._clock
        self.window.seconds += now - self._clock
        self._clock = now

    def resume_clock(self) -> None:
        """Steps follow."""
        self._clock = time.monotonic()

    def close_window(self) -> dict[str, float]:
        """The means since the last call over all processes, with `images_per_second`; no terms if all were skipped."""
        means = self.window.mean(self.world)  # waits for the device, so the clock is read behind it
        self.pause_clock()
        if self.window.seconds > 0:
            means["images_per_second"] = self.window.steps * self.config.batch_size / self.window.seconds
        if self.health.skipped:
            means["skipped_steps"] = float(self.health.skipped)
        self.window = _Window()
        return means

    def _tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Every tensor of the state by group and name: the live ones, which `load` fills in place."""
        groups = {name: module.state_dict() for name, module in self.task.modules.items()}
        for name, player in self.players.items():
            names: dict[torch.Tensor, str] = {value: key for key, value in player.module.named_parameters()}
            groups[f"{name} optimizer"] = {
                f"{names[parameter]}//{slot}": value
                for parameter, slots in player.optimizer.state.items()
                for slot, value in slots.items()
            }
        if self.average is not None:
            groups["average"] = self.average.weights
        return {name: group for name, group in groups.items() if group}

    def _description(self) -> dict[str, Any]:
        model_config = getattr(self.model, "config", None)
        return {
            "task": self.task.name,
            "phases": describe(self.task.phases),
            "batch_size": self.config.batch_size,
            "optimizer": to_dict(self.config.optimizer),
            "model": None if model_config is None else to_dict(model_config),
        }

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            AlitokError: the processes hold different weights; nothing is written then.
        """
        self.pause_clock()
        whole = [tensor for name in self.players for tensor in _whole(self.task.modules[name])]
        if self.world.size > 1 and not self.world.same(whole):
            raise AlitokError(
                f"The processes hold different weights at step {self.progress.step}; start them again: "
                "they continue from the last checkpoint."
            )
        state = {
            **self._description(),
            "progress": self.progress.state(),
            "health": vars(self.health),
            "average_updates": 0 if self.average is None else self.average.updates,
            "window": self.window.state(self.world),
            "step_seconds": self.step_seconds,
            "seconds": self.earlier_seconds + time.monotonic() - self._began,
        }
        self.checkpoints.save(self.progress.step, self._tensors(), state)
        self.resume_clock()

    def restore(self) -> list[str] | None:
        """Continue from the newest whole checkpoint.

        Returns:
            A sentence for each damaged one that was passed over; None when there is no checkpoint.

        Raises:
            AlitokError: all are damaged, or the newest is that of another training.
        """
        mine = self._description()
        keys = [*mine, "progress", "health", "average_updates", "window", "step_seconds", "seconds"]
        state, damaged = self.checkpoints.latest(keys)
        if state is None:
            return None
        changed = [key for key in mine if state[key] != mine[key]]
        if changed:
            raise AlitokError(
                f"{self.checkpoints.path(state['step'])} was written with another configuration "
                f"({', '.join(changed)}); give its run another directory."
            )
        self.checkpoints.load(state["step"], self._tensors())
        if self.average is not None:
            self.average.updates = state["average_updates"]
        self.progress = Progress(self.task.phases, **state["progress"])
        self.health = NonFiniteGuard(**state["health"])
        self.window = _Window.from_state(state["window"], self.world.device)
        self.step_seconds, self.earlier_seconds = state["step_seconds"], state["seconds"]
        return damaged

    def finished_weights(self) -> dict[str, torch.Tensor]:
        """The model's state dict as it is to be kept, whole, on the CPU of the first process."""
        with self.averaged():
            return {name: value.clone() for name, value in parallel.whole_weights(self.model).items()}


def _whole(module: nn.Module) -> list[torch.Tensor]:
    return [value for value in module.state_dict().values() if type(value) is torch.Tensor and value.numel()]


@dataclass
class _Window:
    """Losses over some steps, summed on the device so that no step waits for a number."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0

    def add(self, terms: dict[str, torch.Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value.float() if name in self.sums else value.float()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1

    def _totals(self, world: World) -> dict[str, float]:
        """The sums, averaged over the processes."""
        if not self.sums:
            return {}
        totals = world.mean(torch.stack(list(self.sums.values())))
        return dict(zip(self.sums, totals.tolist(), strict=True))

    def mean(self, world: World) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self._totals(world).items()}

    def state(self, world: World) -> dict[str, Any]:
        return {"sums": self._totals(world), "counts": self.counts, "steps": self.steps, "seconds": self.seconds}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> _Window:
        sums = {name: torch.tensor(total, device=device) for name, total in state["sums"].items()}
        return cls(sums, state["counts"], state["steps"], state["seconds"])
