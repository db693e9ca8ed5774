"""Optimizer, learning-rate schedule and running average of weights, each a small function.

Enters: a model and `OptimizerConfig`. Leaves: AdamW with two parameter groups, a rate for each step, and an
exponential moving average whose decay warms up.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from alitok.core.config import config

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


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
        if self.learning_rate <= 0 or self.final_learning_rate < 0 or self.warmup_steps < 0:
            raise ValueError("learning_rate must be > 0, final_learning_rate and warmup_steps >= 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError("ema_decay must be within [0, 1)")


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


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of the model's parameters; buffers follow the model."""

    def average(averages: Tensors, current: Tensors, updates: torch.Tensor | int) -> None:
        torch._foreach_lerp_(averages, current, 1 - ema_decay_at(int(updates), decay))

    return AveragedModel(model, multi_avg_fn=average)
