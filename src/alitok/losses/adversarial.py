"""The adversarial loss: hinge terms, LeCam regularisation, and the weight that keeps the generator's term in bounds.

Enters: logits of a discriminator on real images and on reconstructions, of any shape. Leaves: scalars.

Running means and the adaptive weight change once per optimizer step, by `update`, with what the trainer has averaged
over microbatches and processes; so a step does not depend on how its batch is split.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_DECAY = 0.999  # of LeCam's running means
_EPSILON, _MOST = 1e-4, 1e4  # of the adaptive weight


def hinge_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss: half of mean relu(1 - real) + mean relu(1 + fake), as in VQGAN and Open-MagViT2."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def hinge_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """The generator's loss: minus the mean logit of its images."""
    return -fake_logits.float().mean()


class LeCam(nn.Module):
    """Regularisation towards the running means of the logits (Tseng et al. 2021), for discriminators on little data.

    The means are buffers, so a checkpoint holds them. They start at 0.
    """

    real: torch.Tensor
    fake: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def regularisation(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Mean relu(real - running fake)^2 + mean relu(running real - fake)^2."""
        above_fake = F.relu(real_logits.float() - self.fake).square().mean()
        below_real = F.relu(self.real - fake_logits.float()).square().mean()
        return above_fake + below_real

    @torch.no_grad()
    def update(self, real_mean: torch.Tensor, fake_mean: torch.Tensor) -> None:
        """Move the running means; once per optimizer step, with the means of the whole batch's logits (scalars)."""
        self.real.lerp_(real_mean.float(), 1 - _DECAY)
        self.fake.lerp_(fake_mean.float(), 1 - _DECAY)


class AdaptiveWeight(nn.Module):
    """VQGAN's adaptive weight of the generator's adversarial term (Esser et al. 2021, equation 7).

    The length of the reconstruction terms' gradient at the decoder's last layer, divided by that of the adversarial
    term's + 1e-4 (as in VQGAN's code), and at most 1e4. VQGAN measures it on the very images it is used for, so that
    the result depends on how a batch is split. Here a step uses what the step before it has measured on its whole
    batch; the first step has no adversarial term. `weight` is a buffer, so a checkpoint holds it.
    """

    weight: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(()))

    def gradients(
        self, reconstruction_loss: torch.Tensor, adversarial_loss: torch.Tensor, last_layer: nn.Parameter
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both unscaled losses' gradients at the last layer, each of its shape; the graph is kept for backward."""
        (reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
        (adversarial,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
        return reconstruction, adversarial

    @torch.no_grad()
    def update(self, reconstruction_gradient: torch.Tensor, adversarial_gradient: torch.Tensor) -> None:
        """Set the weight of the next step; once per optimizer step, with gradients averaged over the whole batch."""
        ratio = reconstruction_gradient.float().norm() / (adversarial_gradient.float().norm() + _EPSILON)
        self.weight.copy_(ratio.clamp(0, _MOST))
