"""AdamW, gradient clipping and the EMA of weights; parameters may be sharded (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError

RateRule = Literal["none", "sqrt", "linear"]


@config
class OptimizerConfig:
    """AdamW.

    Attributes:
        betas: moment decay rates, each in [0, 1).
        weight_decay: of linear and convolution weights only.
        clip: maximum global gradient norm; 0 = no clipping.
        ema_decay: of the EMA of weights that becomes the result; 0 = no EMA.
        rate_rule: how learning rates scale with batch_size / reference_batch.
        reference_batch: the batch size for which the phases' learning rates are given.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0
    rate_rule: RateRule = "none"
    reference_batch: int = 2048

    def __post_init__(self) -> None:
        require_at_least(self, 0, "weight_decay", "clip")
        require_at_least(self, 1, "reference_batch")
        for name, value in (("ema_decay", self.ema_decay), ("betas", min(self.betas)), ("betas", max(self.betas))):
            if not 0 <= value < 1:
                raise AlitokError(f"{name} must be within [0, 1), not {value}")

    def rate_factor(self, batch_size: int) -> float:
        """Factor on the phases' learning rates at a batch size."""
        ratio = batch_size / self.reference_batch
        return {"none": 1.0, "sqrt": ratio**0.5, "linear": ratio}[self.rate_rule]


GENERATOR_ADAMW = OptimizerConfig(betas=(0.9, 0.96), weight_decay=0.03)  # as published for the generator


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Groups by decay (linear and convolution weights alone) and sharding, which fused AdamW cannot mix in a group."""
    decaying = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in trainable(model):
        groups.setdefault((id(parameter) in decaying, isinstance(parameter, DTensor)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        for (decays, _), parameters in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters with `requires_grad`."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW, its moments allocated now so that checkpoints hold the same tensors at every step."""
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), betas=config.betas, fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def gradients(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The gradients that are not None."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def gradient_norm(parameters: Iterable[nn.Parameter], device: torch.device) -> torch.Tensor:
    """Global L2 norm of the gradients, sharded or not: a scalar, the same on every rank."""
    norms = []
    for group in _by_sharding(gradients(parameters)):
        norm = nn.utils.get_total_norm(group)
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=device)


def clip_gradients(parameters: Iterable[nn.Parameter], norm: torch.Tensor, largest: float) -> None:
    """Scale the gradients in place so that their `norm` is at most `largest`."""
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    for group in _by_sharding(gradients(parameters)):
        torch._foreach_mul_(group, scale)


def _by_sharding(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Split into sharded and whole tensors, as the foreach operations need; no empty list."""
    kinds: dict[bool, list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(isinstance(tensor, DTensor), []).append(tensor)
    return list(kinds.values())


def ema_decay_at(updates: int, decay: float) -> float:
    """Warmed-up decay: grows from 0.1 to `decay`, so that early weights are forgotten quickly."""
    return min(decay, (1 + updates) / (10 + updates))


class WeightEMA:
    """Exponential moving average of a module's trainable parameters; buffers are not averaged.

    Updates are counted in Python: a counter on the device would force a synchronization per step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average from the module's current parameters."""
        weight = 1 - ema_decay_at(self.updates, self.decay)
        now = dict(model.named_parameters())
        theirs = _by_sharding(now[name].detach() for name in self.weights)
        for mine, group in zip(_by_sharding(self.weights.values()), theirs, strict=True):
            torch._foreach_lerp_(mine, group, weight)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the context the module holds the EMA weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.weights:
                mine = self.weights[name]
                theirs = parameter.detach().clone()
                parameter.copy_(mine)
                mine.copy_(theirs)
