"""The discriminator's part in training a decoder: its verdict on reconstructions, and its own lessons.

Enters: images and reconstructions of one microbatch at a time. Leaves: the terms that the decoder and the
discriminator minimise. All that is measured over a whole batch (LeCam's means, the adaptive weight) is gathered over
microbatches and processes and used from the next step on, so no result depends on how a batch was split.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

from alitok.core.config import config
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.losses.adversarial import AdaptiveWeight, LeCam, hinge_discriminator, hinge_generator
from alitok.losses.discriminator import Discriminator, DiscriminatorConfig
from alitok.losses.objective import LossWeights
from alitok.train.optim import OptimizerConfig
from alitok.train.task import LossTerms


@config
class AdversaryConfig:
    """The discriminator and how it plays.

    Attributes:
        network: its size.
        optimizer: its AdamW; the learning rate is that of the phase, however it follows the batch, and no average of
            its weights is kept, so `ema_decay`, `rate_rule` and `reference_batch` stay as they are.
        turns: `both` are trained in each step, or they `alternate` step by step, the decoder first.
        weight: `fixed` as in the phase, or `adaptive`: the phase's weight times the ratio of the gradients that
            reconstruction and verdict have at the decoder's last layer (VQGAN).
    """

    network: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    turns: Literal["both", "alternate"] = "both"
    weight: Literal["fixed", "adaptive"] = "fixed"

    def __post_init__(self) -> None:
        """Refuse settings of the optimizer that would change nothing."""
        usual = OptimizerConfig()
        for name in ("ema_decay", "rate_rule", "reference_batch"):
            if getattr(self.optimizer, name) != getattr(usual, name):
                raise AlitokError(f"optimizer.{name} changes nothing here; set it in the stage's loop.optimizer")


class Adversary:
    """A discriminator and what it remembers.

    Args:
        config: size and rules.
        last_layer: the decoder's, where the adaptive weight compares gradients.
    """

    def __init__(self, config: AdversaryConfig, last_layer: nn.Parameter) -> None:
        self.config, self._last_layer = config, last_layer
        self.discriminator = Discriminator(config.network)
        self.lecam = LeCam()
        self.adaptive = AdaptiveWeight() if config.weight == "adaptive" else None
        self.begin()

    def modules(self) -> dict[str, nn.Module]:
        """What is trained and what is kept in checkpoints, by name."""
        modules: dict[str, nn.Module] = {"discriminator": self.discriminator, "lecam": self.lecam}
        return modules if self.adaptive is None else {**modules, "adaptive_weight": self.adaptive}

    def begin(self) -> None:
        """A step begins: forget what the microbatches of the last one left."""
        self._logit_means: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor] = []

    def trains_alone(self, phase_step: int) -> bool:
        """Whether this step is the discriminator's alone."""
        return self.config.turns == "alternate" and phase_step % 2 == 1

    def learns(self, phase_step: int) -> bool:
        """Whether the discriminator is trained in this step."""
        return self.config.turns == "both" or self.trains_alone(phase_step)

    def judge(self, rebuilt: torch.Tensor, reconstruction: torch.Tensor, weight: float) -> LossTerms:
        """The adversarial term for reconstructions (B, 3, h, w); it leaves the discriminator without gradients.

        Args:
            rebuilt: from the decoder, differentiable.
            reconstruction: the decoder's other terms that judge the image, for the adaptive weight.
            weight: the phase's.
        """
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        verdict = hinge_generator(functional_call(self.discriminator, frozen, (rebuilt,)))
        if self.adaptive is None:
            return LossTerms(weight * verdict, {"adversarial": verdict})
        at_last_layer = self.adaptive.gradients(reconstruction, verdict, self._last_layer)
        self._gradients.append(torch.stack([gradient.detach().float() for gradient in at_last_layer]))
        ratio = self.adaptive.weight.clone()
        return LossTerms(weight * ratio * verdict, {"adversarial": verdict, "adaptive_weight": ratio})

    def learn(
        self, discriminator: nn.Module, images: torch.Tensor, rebuilt: torch.Tensor, weights: LossWeights
    ) -> LossTerms:
        """The discriminator's own terms.

        Args:
            discriminator: to be called in place of ours: it knows of the other processes.
            images: (B, 3, h, w) in [0, 1].
            rebuilt: their reconstructions, without gradients.
            weights: the phase's.
        """
        real, fake = discriminator(torch.cat([images, rebuilt])).float().chunk(2)
        hinge = hinge_discriminator(real, fake)
        lecam = self.lecam.regularisation(real, fake)
        self._logit_means.append(torch.stack([real.detach().mean(), fake.detach().mean()]))
        logged = {"discriminator": hinge, "real_logit": real.mean(), "fake_logit": fake.mean()}
        if weights.lecam:
            logged["lecam"] = lecam
        return LossTerms(weights.discriminator * (hinge + weights.lecam * lecam), logged)

    def update(self, world: World) -> None:
        """Remember what this step measured, over all processes."""
        if self._logit_means:
            real, fake = world.mean(torch.stack(self._logit_means).mean(0))
            self.lecam.update(real, fake)
        if self._gradients and self.adaptive is not None:
            self.adaptive.update(*world.mean(torch.stack(self._gradients).mean(0)))
