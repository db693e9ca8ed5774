"""The training state: everything that an optimizer step changes and a checkpoint holds."""

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
from alitok.train.optim import WeightEMA, clip_gradients, gradient_norm, make_optimizer, trainable
from alitok.train.schedule import Progress
from alitok.train.task import Batch, EngineConfig, LoopConfig, LossTerms, StepInfo, Task


@dataclass
class TrainedModule:
    """A module with trainable parameters, and its optimizer."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    clip: float
    parameters: list[nn.Parameter]


@dataclass
class NonFiniteGuard:
    """Steps skipped as not finite: all, those since a good one; restores for it; step s reads batch s + `shift`."""

    skipped: int = 0
    in_a_row: int = 0
    restores: int = 0
    shift: int = 0


class TrainingState:
    """Modules, optimizers, EMA, progress, clock and loss window of one run.

    Raises:
        AlitokError: the batch size is not divisible by ranks x gradient accumulation steps.
    """

    def __init__(self, task: Task, config: LoopConfig, engine: EngineConfig, directory: Path, world: World) -> None:
        if config.batch_size % (world.size * engine.grad_accum_steps):
            raise AlitokError(
                f"batch_size {config.batch_size} is not divisible by {counted(world.size, 'rank')} x "
                f"{engine.grad_accum_steps} gradient accumulation steps; change batch_size or engine.grad_accum_steps."
            )
        self.task, self.config, self.engine, self.world = task, config, engine, world
        task.to(world.device)
        self.model = task.modules["model"]
        self._parallelize()
        self.trained: dict[str, TrainedModule] = {}
        for name, module in task.modules.items():
            if parameters := trainable(module):
                adamw = config.optimizer if name == "model" else task.optimizers[name]
                self.trained[name] = TrainedModule(module, make_optimizer(module, adamw), adamw.clip, parameters)
        decay = config.optimizer.ema_decay
        self.ema = WeightEMA(self.model, decay) if decay else None
        self.checkpoints = Checkpoints(directory / "checkpoints", config.keep, world)
        self.progress, self.guard, self.window = Progress(task.phases), NonFiniteGuard(), _Window()
        self.rate = 0.0
        self.step_seconds, self.earlier_seconds = 0.0, 0.0
        self._began = self._clock = time.monotonic()

    def _parallelize(self) -> None:
        engine, world = self.engine, self.world
        if engine.activation_checkpointing:
            parallel.checkpoint_activations(self.model)
        if engine.compile:
            parallel.compile_blocks(self.model)
        if engine.parallel == "fsdp" and world.size > 1:
            parallel.shard(self.model, world)
        self.callables = {name: parallel.replicate(module, world) for name, module in self.task.modules.items()}

    @property
    def batch_number(self) -> int:
        """Which batch of the endless stream the next step reads."""
        return self.progress.step + self.guard.shift

    def advance(self, batch: Batch, stop: Callable[[], bool]) -> tuple[bool, list[str]]:
        """One optimizer step on this rank's part of a batch, on any device; its losses are added to the window.

        Returns whether `stop`, called late in the step, was true on any rank, and messages for the user.
        """
        self.rate = self.progress.rate * self.config.optimizer.rate_factor(self.config.batch_size)
        self.task.begin()
        for part in self.trained.values():
            part.module.train()
            part.optimizer.zero_grad(set_to_none=True)
        terms = self._backward(batch)
        norms = {name: gradient_norm(part.parameters, self.world.device) for name, part in self.trained.items()}
        finite, stopping = self._agree([*norms.values(), *terms.values()], stop())
        if finite:
            self._apply(norms)
            terms["gradient_norm"] = norms["model"]
            self.window.add(terms)
            self.guard.in_a_row = 0
        else:
            self.guard.skipped += 1
            self.guard.in_a_row += 1
        loss = None
        if finite and self.progress.watches_loss() and "loss" in terms:
            loss = self.world.mean(terms["loss"].float().clone()).item()
        ended = self.progress.advance(loss)
        return stopping, [ended] if ended else []

    def _backward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Accumulate the gradients of the batch; returns the mean terms over this rank's microbatches."""
        count = self.engine.grad_accum_steps
        info = StepInfo(self.progress.phase, self.progress.phase_step, self.progress.step)
        sums: dict[str, torch.Tensor] = {}
        microbatches = zip(*(tensor.chunk(count) for tensor in batch), strict=True)
        for number, (inputs, classes) in enumerate(microbatches, start=1):
            device = self.world.device
            part = inputs.to(device, non_blocking=True), classes.to(device, non_blocking=True)
            with parallel.gradient_sync(list(self.callables.values()), last=number == count):
                for terms in self._forward(part, info):
                    (terms.minimise / count).backward()
                    for name, value in terms.logged.items():
                        sums[name] = sums.get(name, 0.0) + value.detach() / count
        for trained in self.trained.values():
            parallel.average_whole(trained.module, self.world)
        return sums

    def _forward(self, batch: Batch, info: StepInfo) -> Iterator[LossTerms]:
        passes = self.task.losses(self.callables, batch, info)
        while True:
            with autocast(self.world.device, self.engine.precision):
                terms = next(passes, None)
            if terms is None:
                return
            yield terms

    def _agree(self, values: list[torch.Tensor], stop: bool) -> tuple[bool, bool]:
        """Whether all values are finite on all ranks, and whether any should stop: the step's only host sync."""
        bad = ~torch.stack([value.detach().float() for value in values]).isfinite().all()
        flags = torch.stack([bad, torch.tensor(stop, device=bad.device)]).to(torch.int32)
        failed, stopped = self.world.maximum(flags).tolist()
        return not failed, bool(stopped)

    def _apply(self, norms: dict[str, torch.Tensor]) -> None:
        self.task.update(self.world)
        for name, part in self.trained.items():
            if part.clip:
                clip_gradients(part.parameters, norms[name], part.clip)
            for group in part.optimizer.param_groups:
                group["lr"] = self.rate
            part.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model)

    def ema_weights(self) -> AbstractContextManager[None]:
        """Within the context the model holds the weights to evaluate and save: the EMA, if there is one."""
        return nullcontext() if self.ema is None else self.ema.applied(self.model)

    def pause_clock(self) -> None:
        """Stop counting step time."""
        now = time.monotonic()
        self.step_seconds += now - self._clock
        self.window.seconds += now - self._clock
        self._clock = now

    def resume_clock(self) -> None:
        """Count step time again."""
        self._clock = time.monotonic()

    def close_window(self) -> dict[str, float]:
        """Means over all ranks since the last call, with `images_per_second`; no terms if all steps were skipped."""
        means = self.window.mean(self.world)  # waits for the device, so the clock is read after it
        self.pause_clock()
        if self.window.seconds > 0:
            means["images_per_second"] = self.window.steps * self.config.batch_size / self.window.seconds
        if self.guard.skipped:
            means["skipped_steps"] = float(self.guard.skipped)
        self.window = _Window()
        return means

    def _tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """All live tensors of the state by group and name; `load` fills them in place."""
        groups = {name: module.state_dict() for name, module in self.task.modules.items()}
        for name, part in self.trained.items():
            names: dict[torch.Tensor, str] = {value: key for key, value in part.module.named_parameters()}
            groups[f"{name} optimizer"] = {
                f"{names[parameter]}//{slot}": value
                for parameter, slots in part.optimizer.state.items()
                for slot, value in slots.items()
            }
        if self.ema is not None:
            groups["ema"] = self.ema.weights
        return {name: group for name, group in groups.items() if group}

    def _description(self) -> dict[str, Any]:
        model_config = getattr(self.model, "config", None)
        return {
            "task": self.task.name,
            "phases": [to_dict(phase) for phase in self.task.phases],
            "batch_size": self.config.batch_size,
            "optimizer": to_dict(self.config.optimizer),
            "model": None if model_config is None else to_dict(model_config),
        }

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            AlitokError: the ranks hold different weights; nothing is written.
        """
        self.pause_clock()
        tensors = [tensor for part in self.trained.values() for tensor in part.module.state_dict().values()]
        whole = [tensor for tensor in tensors if type(tensor) is torch.Tensor and tensor.numel()]
        if self.world.size > 1 and not self.world.same(whole):
            raise AlitokError(
                f"The ranks hold different weights at step {self.progress.step}. "
                "Rerun the same command to resume from the last checkpoint."
            )
        state = {
            **self._description(),
            "progress": self.progress.state(),
            "guard": vars(self.guard),
            "ema_updates": 0 if self.ema is None else self.ema.updates,
            "window": self.window.state(self.world),
            "step_seconds": self.step_seconds,
            "seconds": self.earlier_seconds + time.monotonic() - self._began,
        }
        self.checkpoints.save(self.progress.step, self._tensors(), state)
        self.resume_clock()

    def restore(self) -> list[str] | None:
        """Load the newest complete checkpoint; returns messages about damaged ones skipped, None without a checkpoint.

        Raises:
            AlitokError: all are damaged, or the newest belongs to another training.
        """
        mine = self._description()
        keys = [*mine, "progress", "guard", "ema_updates", "window", "step_seconds", "seconds"]
        state, damaged = self.checkpoints.latest(keys)
        if state is None:
            return None
        changed = [key for key in mine if state[key] != mine[key]]
        if changed:
            raise AlitokError(
                f"{self.checkpoints.path(state['step'])} has conflicting settings: {', '.join(changed)}. "
                "Train in another directory."
            )
        self.checkpoints.load(state["step"], self._tensors())
        if self.ema is not None:
            self.ema.updates = state["ema_updates"]
        self.progress = Progress(self.task.phases, **state["progress"])
        self.guard = NonFiniteGuard(**state["guard"])
        self.window = _Window.from_state(state["window"], self.world.device)
        self.step_seconds, self.earlier_seconds = state["step_seconds"], state["seconds"]
        return damaged

    def finished_weights(self) -> dict[str, torch.Tensor]:
        """The final state dict (EMA if enabled), unsharded, on the CPU of rank 0."""
        with self.ema_weights():
            return {name: value.clone() for name, value in parallel.whole_weights(self.model).items()}


@dataclass
class _Window:
    """Losses over some steps, summed on the device to avoid host syncs."""

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
        """The sums, averaged over ranks."""
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
