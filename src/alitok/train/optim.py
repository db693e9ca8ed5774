"""Optimizer, learning-rate schedule and running average of weights, each a small function.

Enters: a model and `OptimizerConfig`. Leaves: AdamW with two parameter groups, a rate for each step, and an
exponential moving average whose decay warms up.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError


@config
class OptimizerConfig:
    """AdamW, warm-up and cosine.

    Attributes:
        learning_rate: reached after the warm-up.
        final_learning_rate: reached at the last step.
        warmup_steps: of linear growth from zero.
        betas: of AdamW.
        weight_decay: on the weight matrices only.
        clip: largest global gradient norm; 0 = no clipping.
        ema_decay: of the running average of weights that is kept as the result; 0 = none.
    """

    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_at_least(self, 0, "learning_rate", "final_learning_rate", "warmup_steps", "weight_decay", "clip")
        if self.learning_rate == 0:
            raise AlitokError("learning_rate must be above 0")
        for name, value in (("ema_decay", self.ema_decay), ("betas", min(self.betas)), ("betas", max(self.betas))):
            if not 0 <= value < 1:
                raise AlitokError(f"{name} must be within [0, 1), not {value}")


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """The rate for a step in [0, steps): linear warm-up, then half a cosine to the final rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(steps - 1 - config.warmup_steps, 1)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: the weights of linear layers and convolutions decay, all others do not."""
    decaying = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in decaying], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters, fused (one pass over memory per step)."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def ema_decay_at(updates: int, decay: float) -> float:
    """The decay after `updates` averagings: it grows from 0.1 to `decay`, so early weights are soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates))


class WeightAverage:
    """A running average of a model's parameters, beginning with those it has; buffers follow the model.

    Counts its updates in Python, as a counter on the device would make every step wait for it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's parameters as they are now."""
        weight = 1 - ema_decay_at(self.updates, self.decay)
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1
