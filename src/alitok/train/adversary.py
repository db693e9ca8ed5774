"""Adversarial training of a decoder: the discriminator, its loss and the decoder's adversarial term.

Statistics over the whole batch (LeCam's means, the adaptive weight) are collected over microbatches and ranks and used
from the next step on, so that no result depends on how a batch was split.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

from alitok.core.config import config
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.losses.adversarial import (
    AdaptiveWeight,
    Discriminator,
    DiscriminatorConfig,
    LeCam,
    hinge_discriminator,
    hinge_generator,
)
from alitok.losses.objective import LossWeights
from alitok.train.optim import OptimizerConfig
from alitok.train.task import LossTerms


@config
class AdversaryConfig:
    """The discriminator and its training.

    Attributes:
        optimizer: its AdamW; the learning rate is the phase's, and there is no EMA, so `ema_decay`, `rate_rule` and
            `reference_batch` must keep their defaults.
        turns: decoder and discriminator are `both` trained in each step, or `alternate`, the decoder first.
        weight: `fixed` as in the phase, or `adaptive`: times the ratio of the gradient norms of reconstruction and
            adversarial loss at the decoder's last layer (VQGAN).
    """

    network: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    turns: Literal["both", "alternate"] = "both"
    weight: Literal["fixed", "adaptive"] = "fixed"

    def __post_init__(self) -> None:
        usual = OptimizerConfig()
        for name in ("ema_decay", "rate_rule", "reference_batch"):
            if getattr(self.optimizer, name) != getattr(usual, name):
                raise AlitokError(f"optimizer.{name} has no effect here; set it in the stage's loop.optimizer")


class Adversary:
    """A discriminator and its statistics; adaptive weighting compares gradients at the decoder weight `last_layer`."""

    def __init__(self, config: AdversaryConfig, last_layer: nn.Parameter) -> None:
        self.config, self._last_layer = config, last_layer
        self.discriminator = Discriminator(config.network)
        self.lecam = LeCam()
        self.adaptive = AdaptiveWeight() if config.weight == "adaptive" else None
        self.begin()

    def modules(self) -> dict[str, nn.Module]:
        """Modules to train and save in checkpoints, by name."""
        modules: dict[str, nn.Module] = {"discriminator": self.discriminator, "lecam": self.lecam}
        return modules if self.adaptive is None else {**modules, "adaptive_weight": self.adaptive}

    def begin(self) -> None:
        """Start a step: discard what the previous one collected."""
        self._logit_means: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor] = []

    def discriminator_only(self, phase_step: int) -> bool:
        """Whether only the discriminator is trained in this step."""
        return self.config.turns == "alternate" and phase_step % 2 == 1

    def trains_discriminator(self, phase_step: int) -> bool:
        """Whether the discriminator is trained in this step."""
        return self.config.turns == "both" or self.discriminator_only(phase_step)

    def decoder_loss(self, rebuilt: torch.Tensor, reconstruction: torch.Tensor, weight: float) -> LossTerms:
        """The term for `rebuilt` images (B, 3, h, w), differentiable; the discriminator gets no gradients.

        `reconstruction` is the decoder's other image losses, for the adaptive weight.
        """
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        adversarial = hinge_generator(functional_call(self.discriminator, frozen, (rebuilt,)))
        if self.adaptive is None:
            return LossTerms(weight * adversarial, {"adversarial": adversarial})
        at_last_layer = self.adaptive.gradients(reconstruction, adversarial, self._last_layer)
        self._gradients.append(torch.stack([gradient.detach().float() for gradient in at_last_layer]))
        ratio = self.adaptive.weight.clone()
        return LossTerms(weight * ratio * adversarial, {"adversarial": adversarial, "adaptive_weight": ratio})

    def discriminator_loss(
        self, discriminator: nn.Module, images: torch.Tensor, rebuilt: torch.Tensor, weights: LossWeights
    ) -> LossTerms:
        """Its loss on images (B, 3, h, w) in [0, 1] and on `rebuilt`, detached; `discriminator` is wrapped for DDP."""
        real, fake = discriminator(torch.cat([images, rebuilt])).float().chunk(2)
        hinge = hinge_discriminator(real, fake)
        lecam = self.lecam.regularization(real, fake)
        self._logit_means.append(torch.stack([real.detach().mean(), fake.detach().mean()]))
        logged = {"discriminator": hinge, "real_logit": real.mean(), "fake_logit": fake.mean()}
        if weights.lecam:
            logged["lecam"] = lecam
        return LossTerms(weights.discriminator * (hinge + weights.lecam * lecam), logged)

    def update(self, world: World) -> None:
        """Update the running statistics from this step, over all ranks."""
        if self._logit_means:
            real, fake = world.mean(torch.stack(self._logit_means).mean(0))
            self.lecam.update(real, fake)
        if self._gradients and self.adaptive is not None:
            self.adaptive.update(*world.mean(torch.stack(self._gradients).mean(0)))
