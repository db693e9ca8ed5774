"""A rehearsal of a training: its real steps on one batch, again and again, which it must be able to learn by heart.

Enters: a task with the phases of `rehearsed`, and this process's part of one batch. Leaves: a `Rehearsal`, the same
on every process. Nothing is written.
"""

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
DISTINCT = 16  # examples over all processes; more take longer to learn by heart and show no more
_LATER = 4  # steps of each later phase: what it needs, and whether it runs at all, is known before its day comes
_WARMUP = 20
_SETTLING = 2  # first steps of a phase that its time is not measured in

AnyPhase = TypeVar("AnyPhase", bound=Phase)


def rehearsed(phases: tuple[AnyPhase, ...]) -> tuple[AnyPhase, ...]:
    """The first phase at its own rate behind a short warm-up, at most, then a few steps of each later one."""
    first, *later = (
        dataclasses.replace(
            phase, final_learning_rate=phase.learning_rate, converged=None, warmup_steps=0, steps=_LATER
        )
        for phase in phases
    )
    return dataclasses.replace(first, steps=STEPS, warmup_steps=_WARMUP), *later


def few(batch: Batch, world: World) -> Batch:
    """The same batch with `DISTINCT` examples over all processes, repeated to its size: a step costs what it will."""
    rows = torch.arange(len(batch[0])) % max(1, DISTINCT // world.size)
    return batch[0][rows], batch[1][rows]


@dataclass
class Rehearsal:
    """What was seen; means are over all processes.

    Attributes:
        losses: of each step of the first phase.
        before, after: what `look` returned before the first step and behind the last of the first phase.
        seconds: of a step, the median of each phase.
        peak_bytes: the largest of any process: of the device, on a CPU of the whole process.
        failed_at: the first step, from 1, that had a loss or gradient that was no finite number; it was the last.
        idle: trainable parameters that never had a gradient.
        still: those whose gradient was zero whenever there was one, as behind a loss of weight 0.
        disturbed: other parameters of the model that a gradient reached.
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


def rehearse(
    task: Task,
    config: LoopConfig,
    engine: EngineConfig,
    world: World,
    *,
    batch: Batch,
    seed: int,
    look: Callable[[nn.Module], float],
    enough: Callable[[float, list[float]], bool],
    advance: Callable[[int, float], None] = lambda step, loss: None,
) -> Rehearsal:
    """Take the steps of the task's phases on one batch.

    Args:
        task: its phases are those of `rehearsed`; its modules are changed.
        config: as in the training.
        engine: as in the training.
        world: the processes.
        batch: this process's part.
        seed: of dropout.
        look: measures the model, in evaluation mode, on this process's part; the mean over the processes counts.
        enough: given that and the losses so far, whether the first phase may end.
        advance: told the steps done and the loss.
    """
    state = TrainingState(task, config, engine, Path(), world)  # writes only when told to save
    found, touched = Rehearsal(before=_look(state, look)), _Touched(state)
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
        touched.look()
        if state.health.skipped:
            found.failed_at = state.progress.step
            break
        if state.progress.step == 1 and touched.idle("model"):
            break  # with several processes the next step would wait for these gradients
        if phase == 0:
            if "loss" in means:  # a step of the discriminator alone has none
                found.losses.append(means["loss"])
                advance(state.progress.step, means["loss"])
            if state.progress.phase > 0 or state.progress.step % _LOOK_EVERY == 0:
                found.after = _look(state, look)
                if state.progress.phase == 0 and enough(found.after, found.losses):
                    state.progress.phase, state.progress.phase_step = 1, 0
    found.seconds = {
        phase.name: statistics.median(taken[_SETTLING:] or taken)
        for phase, taken in zip(phases, seconds, strict=True)
        if taken
    }
    found.peak_bytes = _peak(world)
    for player in state.players if state.progress.done else ["model"]:
        idle, still = touched.idle(player), touched.still(player)
        found.idle, found.still = (*found.idle, *idle), (*found.still, *(name for name in still if name not in idle))
    found.disturbed = touched.disturbed()
    return found


def _look(state: TrainingState, look: Callable[[nn.Module], float]) -> float:
    for module in state.task.modules.values():
        module.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        value = torch.tensor(look(state.model), device=state.world.device)
    return state.world.mean(value).item()


class _Touched:
    """Which parameters a gradient other than zero has reached, on any process."""

    def __init__(self, state: TrainingState) -> None:
        self._world, self._model = state.world, state.model
        self._parameters = {
            (player, name): parameter
            for player, trained in state.players.items()
            for name, parameter in trained.module.named_parameters()
            if parameter.requires_grad
        }
        device = state.world.device
        self._some = torch.zeros(len(self._parameters), dtype=torch.int32, device=device)  # a gradient, be it zero
        self._moved = torch.zeros_like(self._some)

    def look(self) -> None:
        """Look at the gradients that a step left."""
        for place, parameter in enumerate(self._parameters.values()):
            if parameter.grad is not None:
                mine = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
                self._some[place] = 1
                self._moved[place] |= mine.any().to(torch.int32)

    def idle(self, player: str) -> list[str]:
        """The parameters of a player that never had a gradient."""
        return self._without(self._some, player)

    def still(self, player: str) -> list[str]:
        """The parameters of a player that never had a gradient other than zero."""
        return self._without(self._moved, player)

    def _without(self, flags: torch.Tensor, player: str) -> list[str]:
        reached = self._world.maximum(flags.clone()).tolist()
        names = [
            name
            for (owner, name), there in zip(self._parameters, reached, strict=True)
            if owner == player and not there
        ]
        return names if player == "model" else [f"{player}.{name}" for name in names]

    def disturbed(self) -> tuple[str, ...]:
        """The model's frozen parameters that have a gradient."""
        frozen = ((name, value) for name, value in self._model.named_parameters() if not value.requires_grad)
        return tuple(name for name, value in frozen if value.grad is not None)


def _peak(world: World) -> int:
    mine = torch.cuda.max_memory_allocated(world.device) if world.device.type == "cuda" else peak_memory()
    return max(world.gather(mine))
