"""The adversarial loss: hinge terms, LeCam regularization, the adaptive weight, and the patch discriminator.

Running means and the adaptive weight change once per optimizer step, by `update` with values averaged over microbatches
and processes, so a step does not depend on how its batch is split.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError

_DECAY = 0.999  # of LeCam's running means
_EPSILON, _MAX_WEIGHT = 1e-4, 1e4  # of the adaptive weight
_SLOPE = 0.1  # of the leaky ReLU
_GROUPS = 32


def hinge_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Discriminator loss of logits of any shape: 0.5 * (mean relu(1 - real) + mean relu(1 + fake)), as in VQGAN."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def hinge_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """Generator loss: minus the mean logit of its images."""
    return -fake_logits.float().mean()


class LeCam(nn.Module):
    """Regularization towards running means of the logits, for limited data (Tseng et al. 2021).

    The means start at 0 and are buffers, so checkpoints hold them.
    """

    real: torch.Tensor
    fake: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def regularization(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Mean relu(real - running fake)^2 + mean relu(running real - fake)^2."""
        above_fake = F.relu(real_logits.float() - self.fake).square().mean()
        below_real = F.relu(self.real - fake_logits.float()).square().mean()
        return above_fake + below_real

    @torch.no_grad()
    def update(self, real_mean: torch.Tensor, fake_mean: torch.Tensor) -> None:
        """Update the running means, once per optimizer step, with the mean logits (scalars) of the whole batch."""
        self.real.lerp_(real_mean.float(), 1 - _DECAY)
        self.fake.lerp_(fake_mean.float(), 1 - _DECAY)


class AdaptiveWeight(nn.Module):
    """VQGAN's adaptive weight of the generator's adversarial term (Esser et al. 2021, equation 7).

    The gradient norm of the reconstruction terms at the decoder's last layer over that of the adversarial term + 1e-4
    (as in VQGAN's code), at most 1e4. VQGAN measures it on the images it is applied to, so the result depends on how a
    batch is split; here each step uses the value of the whole previous batch, and the first step has no adversarial
    term. `weight` is a buffer, so checkpoints hold it.
    """

    weight: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(()))

    def gradients(
        self, reconstruction_loss: torch.Tensor, adversarial_loss: torch.Tensor, last_layer: nn.Parameter
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of both unscaled losses at the last layer; the graph is retained."""
        (reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
        (adversarial,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
        return reconstruction, adversarial

    @torch.no_grad()
    def update(self, reconstruction_gradient: torch.Tensor, adversarial_gradient: torch.Tensor) -> None:
        """Set the weight of the next step, once per optimizer step, from gradients averaged over the whole batch."""
        ratio = reconstruction_gradient.float().norm() / (adversarial_gradient.float().norm() + _EPSILON)
        self.weight.copy_(ratio.clamp(0, _MAX_WEIGHT))


@config
class DiscriminatorConfig:
    """Size of the discriminator.

    Attributes:
        width: channels of the stem, a multiple of 32; each stage after the first doubles them.
        stages: each halves the resolution.
        regions: logits per side.
    """

    width: int = 128
    stages: int = 3
    regions: int = 16

    def __post_init__(self) -> None:
        require_at_least(self, 1, "width", "stages", "regions")
        if self.width % _GROUPS:
            raise AlitokError(f"width must be a multiple of {_GROUPS}, not {self.width}")


class BlurPool(nn.Module):
    """Halve the resolution after a binomial 4 x 4 blur, for shift invariance."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", (torch.outer(taps, taps) / 64)[None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h / 2, w / 2)."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, -1, -1), stride=2, padding=1, groups=channels)


class Discriminator(nn.Module):
    """5 x 5 stem, blur-pooled stages, and a 5 x 5 logit per region; high means real."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.width, 5, padding=2)
        self.stages = nn.ModuleList()
        channels = config.width
        for stage in range(config.stages):
            out = config.width * 2**stage
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(channels, out, 3, padding=1), BlurPool(), nn.GroupNorm(_GROUPS, out), nn.LeakyReLU(_SLOPE)
                )
            )
            channels = out
        self.pool = nn.AdaptiveMaxPool2d(config.regions)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.logit = nn.Conv2d(channels, 1, 5, padding=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) in [0, 1] -> logits (B, 1, regions, regions)."""
        x = F.leaky_relu(self.stem(images), _SLOPE)
        for stage in self.stages:
            x = stage(x)
        return self.logit(F.leaky_relu(self.mix(self.pool(x)), _SLOPE))
