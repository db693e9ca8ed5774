"""The adversarial loss: hinge terms, LeCam regularization, and the adaptive weight of the generator's term.

Running means and the adaptive weight change once per optimizer step, by `update` with values averaged over microbatches
and processes, so a step does not depend on how its batch is split.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_DECAY = 0.999  # of LeCam's running means
_EPSILON, _MAX_WEIGHT = 1e-4, 1e4  # of the adaptive weight


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
    batch is split; here each step uses the value measured on the whole previous batch, and the first step has no
    adversarial term. `weight` is a buffer, so checkpoints hold it.
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
