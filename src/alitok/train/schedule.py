"""Training in phases: their lengths, their learning-rate schedules, and the progress through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError


@config
class Convergence:
    """Criterion that ends a phase early.

    Attributes:
        window: steps whose mean loss is compared with that of the previous window.
        improvement: relative decrease needed for the phase to continue.
    """

    window: int = 5000
    improvement: float = 0.002

    def __post_init__(self) -> None:
        require_at_least(self, 1, "window")
        require_at_least(self, 0, "improvement")


@config
class Phase:
    """A part of the training with its own learning-rate schedule: linear warm-up, then half a cosine.

    Attributes:
        steps: optimizer steps (an upper bound with `converged`).
        learning_rate: at the end of the warm-up.
        final_learning_rate: at the last step.
        warmup_steps: of linear growth from zero.
        converged: when to end the phase early; None = never.
    """

    steps: int
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 0
    converged: Convergence | None = None
    name: str = "main"

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps")
        require_at_least(self, 0, "final_learning_rate", "warmup_steps")
        if not 0 < self.learning_rate < math.inf:
            raise AlitokError(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.warmup_steps > self.steps:
            raise AlitokError(
                f"warmup_steps {self.warmup_steps} must not exceed the phase's {self.steps} steps; set both"
            )


def require_phases(phases: Sequence[Phase]) -> None:
    """Check that a config has phases."""
    if not phases:
        raise AlitokError("phases is empty; give at least one")


def learning_rate(step: int, phase: Phase) -> float:
    """The learning rate at a step in [0, phase.steps)."""
    if step < phase.warmup_steps:
        return phase.learning_rate * (step + 1) / phase.warmup_steps
    progress = (step - phase.warmup_steps) / max(phase.steps - 1 - phase.warmup_steps, 1)
    span = phase.learning_rate - phase.final_learning_rate
    return phase.final_learning_rate + span * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


@dataclass
class Progress:
    """Position of a run in its phases; its fields are all that resuming needs.

    `phase` is the index of the next step's phase, the number of phases when done. `window_loss` is the sum of the
    losses in the current convergence window, `last_window` the mean of the previous one, None in the first.
    """

    phases: Sequence[Phase]
    step: int = 0
    phase: int = 0
    phase_step: int = 0
    window_loss: float = 0.0
    window_steps: int = 0
    last_window: float | None = None

    @property
    def done(self) -> bool:
        """Whether all phases are finished."""
        return self.phase >= len(self.phases)

    @property
    def total(self) -> int:
        """Total steps, if no further phase ends early."""
        return self.step - self.phase_step + sum(phase.steps for phase in self.phases[self.phase :])

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self.phase_step, self.phases[self.phase])

    def watches_loss(self) -> bool:
        """Whether `advance` needs the loss in this phase."""
        return not self.done and self.phases[self.phase].converged is not None

    def advance(self, loss: float | None = None) -> str | None:
        """Count a step (with its whole batch's loss if `watches_loss`); returns a message if a phase ended early."""
        phase = self.phases[self.phase]
        self.step, self.phase_step = self.step + 1, self.phase_step + 1
        ended = None
        if phase.converged is not None and loss is not None and self._has_converged(phase.converged, loss):
            ended = f"Phase '{phase.name}' ends at step {self.phase_step} of {phase.steps}: the loss has converged."
        if self.phase_step == phase.steps or ended:
            self.phase, self.phase_step = self.phase + 1, 0
            self.window_loss, self.window_steps, self.last_window = 0.0, 0, None
        return ended

    def _has_converged(self, rule: Convergence, loss: float) -> bool:
        self.window_loss += loss
        self.window_steps += 1
        if self.window_steps < rule.window:
            return False
        mean, before = self.window_loss / self.window_steps, self.last_window
        self.window_loss, self.window_steps, self.last_window = 0.0, 0, mean
        return before is not None and mean > before - abs(before) * rule.improvement

    def state(self) -> dict[str, float | int | None]:
        """All fields but the phases, for a checkpoint."""
        return {name: value for name, value in vars(self).items() if name != "phases"}
