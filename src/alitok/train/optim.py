"""Optimizer, clipping and running average of weights, each a small piece that knows nothing of a run.

Enters: a module and `OptimizerConfig`. Leaves: AdamW with decaying and other parameters apart, the norm of the
gradients, and an exponential moving average whose decay warms up. Parameters may be sharded over processes.
"""

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
        betas: of AdamW.
        weight_decay: on the weight matrices only.
        clip: largest global gradient norm; 0 = no clipping.
        ema_decay: of the running average of weights that is kept as the result; 0 = none.
        rate_rule: how learning rates grow with the batch, as its share of `reference_batch` or the root of that share.
        reference_batch: the batch size that the phases' learning rates are meant for.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0
    rate_rule: RateRule = "none"
    reference_batch: int = 2048

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_at_least(self, 0, "weight_decay", "clip")
        require_at_least(self, 1, "reference_batch")
        for name, value in (("ema_decay", self.ema_decay), ("betas", min(self.betas)), ("betas", max(self.betas))):
            if not 0 <= value < 1:
                raise AlitokError(f"{name} must be within [0, 1), not {value}")

    def rate_factor(self, batch_size: int) -> float:
        """What the phases' learning rates are multiplied by at a batch size."""
        share = batch_size / self.reference_batch
        return {"none": 1.0, "sqrt": share**0.5, "linear": share}[self.rate_rule]


GENERATOR_ADAMW = OptimizerConfig(betas=(0.9, 0.96), weight_decay=0.03)  # the published one of the generator


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters by whether they decay and whether they are sharded; empty groups are left out.

    The weights of linear layers and convolutions decay, all others do not. Fused AdamW takes no mixture of sharded
    and whole tensors.
    """
    decaying = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in trainable(model):
        groups.setdefault((id(parameter) in decaying, isinstance(parameter, DTensor)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        for (decays, _), parameters in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a gradient changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW over the model's trainable parameters; the phases set its rate.

    Its moments exist from the start, so that a checkpoint holds the same tensors at any step.
    """
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
    """The gradients that there are."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def gradient_norm(parameters: Iterable[nn.Parameter], device: torch.device) -> torch.Tensor:
    """The global L2 norm of the gradients, sharded or not: a scalar, the same on every process."""
    norms = []
    for group in _apart(gradients(parameters)):
        norm = nn.utils.get_total_norm(group)
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=device)


def clip_gradients(parameters: Iterable[nn.Parameter], norm: torch.Tensor, largest: float) -> None:
    """Scale the gradients so that their `norm` becomes at most `largest`, in place."""
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    for group in _apart(gradients(parameters)):
        torch._foreach_mul_(group, scale)


def _apart(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Sharded and whole tensors in lists of their own, as the batched operations want them; no empty list."""
    kinds: dict[bool, list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(isinstance(tensor, DTensor), []).append(tensor)
    return list(kinds.values())


def ema_decay_at(updates: int, decay: float) -> float:
    """The decay after `updates` averagings: it grows from 0.1 to `decay`, so early weights are soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates))


class WeightAverage:
    """Exponential moving average of a module's parameters, beginning with those it has; buffers are the module's own.

    Counts its updates in Python, as a counter on the device would make every step wait for it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the module's parameters as they are now."""
        weight = 1 - ema_decay_at(self.updates, self.decay)
        now = dict(model.named_parameters())
        theirs = _apart(now[name].detach() for name in self.weights)
        for mine, group in zip(_apart(self.weights.values()), theirs, strict=True):
            torch._foreach_lerp_(mine, group, weight)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The module holds the average while the context lasts."""
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
