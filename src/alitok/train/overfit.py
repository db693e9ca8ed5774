"""Overfitting one batch with the real training steps, as a check before a long training. Nothing is written."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from alitok.core.device import seed_step
from alitok.core.distributed import World
from alitok.core.system import peak_memory
from alitok.train.schedule import Phase
from alitok.train.state import TrainingState
from alitok.train.task import Batch, EngineConfig, LoopConfig, Task

STEPS = 1000  # of the first phase, at most
_LOOK_EVERY = 25
DISTINCT = 16  # examples over all ranks; more take longer to overfit and show nothing more
_LATER = 4  # steps of each later phase, to see that it runs and what it needs
_WARMUP = 20
_SETTLING = 2  # first steps of a phase that are not timed

AnyPhase = TypeVar("AnyPhase", bound=Phase)


def overfit_phases(phases: tuple[AnyPhase, ...]) -> tuple[AnyPhase, ...]:
    """The first phase at its own rate after a short warm-up, then a few steps of each later one."""
    first, *later = (
        dataclasses.replace(each, final_learning_rate=each.learning_rate, converged=None, warmup_steps=0, steps=_LATER)
        for each in phases
    )
    return dataclasses.replace(first, steps=STEPS, warmup_steps=_WARMUP), *later


def repeat_examples(batch: Batch, world: World) -> Batch:
    """The batch with only `DISTINCT` examples over all ranks, repeated to full size so that a step costs the same."""
    rows = torch.arange(len(batch[0])) % max(1, DISTINCT // world.size)
    return batch[0][rows], batch[1][rows]


@dataclass
class OverfitCheck:
    """Observations; means are over all ranks.

    Attributes:
        losses: of each step of the first phase.
        before, after: `measure` before the first step and after the first phase.
        seconds: median step time of each phase.
        peak_bytes: peak memory of any rank: of the device, or of the whole process on a CPU.
        failed_at: first step, from 1, with a non-finite loss or gradient (the check stops there).
        idle: trainable parameters that never had a gradient.
        still: those whose gradient was always zero, as with a loss of weight 0.
        disturbed: frozen parameters that received a gradient.
    """

    losses: list[float] = field(default_factory=list)
    before: float = math.nan
    after: float = math.nan
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    failed_at: int | None = None
    idle: tuple[str, ...] = ()
    still: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()


def overfit_one_batch(
    task: Task,
    config: LoopConfig,
    engine: EngineConfig,
    world: World,
    *,
    batch: Batch,
    seed: int,
    measure: Callable[[nn.Module], float],
    enough: Callable[[float, list[float]], bool],
    advance: Callable[[int, float], None] = lambda step, loss: None,
) -> OverfitCheck:
    """Run the task's phases, from `overfit_phases`, on this rank's part of one batch; its modules are modified.

    `measure` evaluates the model (in eval mode) on this rank's part, averaged over ranks; `enough` says whether the
    first phase may end, given that value and the losses so far; `advance` gets the steps completed and the loss.
    """
    state = TrainingState(task, config, engine, Path(), world)  # never saved, so the path is not used
    found, touched = OverfitCheck(before=_measure(state, measure)), _Touched(state)
    phases, seconds = list(task.phases), [[] for _ in task.phases]  # type: list[Phase], list[list[float]]
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    while not state.progress.done:
        phase = state.progress.phase
        seed_step(seed, f"rehearsal/{world.rank}", state.progress.step)
        began = time.perf_counter()
        state.advance(batch, lambda: False)
        means = state.close_window()  # waits for the device
        seconds[phase].append(time.perf_counter() - began)
        touched.update()
        if state.guard.skipped:
            found.failed_at = state.progress.step
            break
        if state.progress.step == 1 and touched.idle("model"):
            break  # with several ranks the next step would wait for these gradients
        if phase == 0:
            if "loss" in means:  # a step of the discriminator alone has none
                found.losses.append(means["loss"])
                advance(state.progress.step, means["loss"])
            if state.progress.phase > 0 or state.progress.step % _LOOK_EVERY == 0:
                found.after = _measure(state, measure)
                if state.progress.phase == 0 and enough(found.after, found.losses):
                    state.progress.phase, state.progress.phase_step = 1, 0
    found.seconds = {
        phase.name: statistics.median(taken[_SETTLING:] or taken)
        for phase, taken in zip(phases, seconds, strict=True)
        if taken
    }
    cuda = world.device.type == "cuda"
    found.peak_bytes = max(world.gather(torch.cuda.max_memory_allocated(world.device) if cuda else peak_memory()))
    for module in state.trained if state.progress.done else ["model"]:
        idle, still = touched.idle(module), touched.still(module)
        found.idle, found.still = (*found.idle, *idle), (*found.still, *(name for name in still if name not in idle))
    found.disturbed = touched.disturbed()
    return found


def _measure(state: TrainingState, measure: Callable[[nn.Module], float]) -> float:
    for module in state.task.modules.values():
        module.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        value = torch.tensor(measure(state.model), device=state.world.device)
    return state.world.mean(value).item()


class _Touched:
    """Which parameters received a (nonzero) gradient, on any rank."""

    def __init__(self, state: TrainingState) -> None:
        self._world, self._model = state.world, state.model
        self._parameters = {
            (module, name): parameter
            for module, trained in state.trained.items()
            for name, parameter in trained.module.named_parameters()
            if parameter.requires_grad
        }
        device = state.world.device
        self._some = torch.zeros(len(self._parameters), dtype=torch.int32, device=device)  # any gradient, even zero
        self._moved = torch.zeros_like(self._some)

    def update(self) -> None:
        for place, parameter in enumerate(self._parameters.values()):
            if parameter.grad is not None:
                mine = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
                self._some[place] = 1
                self._moved[place] |= mine.any().to(torch.int32)

    def idle(self, module: str) -> list[str]:
        return self._without(self._some, module)

    def still(self, module: str) -> list[str]:
        return self._without(self._moved, module)

    def _without(self, flags: torch.Tensor, module: str) -> list[str]:
        reached = self._world.maximum(flags.clone()).tolist()
        prefix = "" if module == "model" else f"{module}."
        found = zip(self._parameters, reached, strict=True)
        return [prefix + name for (owner, name), there in found if owner == module and not there]

    def disturbed(self) -> tuple[str, ...]:
        frozen = ((name, value) for name, value in self._model.named_parameters() if not value.requires_grad)
        return tuple(name for name, value in frozen if value.grad is not None)
