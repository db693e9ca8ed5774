"""The tokenizer's objective, as named terms and their weighted sum.

Enters: images (B, 3, h, h) in [0, 1], reconstructions, and for stage 1 the prefix strip (B, 3, f, K * f) and the
quantizer's loss. Leaves: name -> scalar tensor, `loss` being the sum that is minimised.

Source: AliTok, L = L_mse + L_perceptual + L_quant + L_aux; the adversarial term is the trainer's to add, which alone
holds the discriminator. f patch side, G = h / f grid side, K prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.losses.perceptual import FeatureNetwork, NetworkName


@config
class LossWeights:
    """Weight of each term in the sum, at least 0.

    Attributes:
        mse: mean squared error of the pixels.
        convnext, lpips, local: distance in the features of that network; with 0 the network is not run.
        quantizer: the quantizer's own loss.
        auxiliary: the loss of the first row as the prefix codes draw it.
        auxiliary_perceptual: whether that loss has perceptual terms (the paper), or is the MSE alone (released v1).
        adversarial: the generator's term.
        lecam: LeCam regularisation in the discriminator's loss.
        discriminator: scale of the discriminator's loss (released v1: 0.1).
    """

    mse: float = 1.0
    convnext: float = 0.0
    lpips: float = 0.0
    local: float = 0.0
    quantizer: float = 1.0
    auxiliary: float = 1.0
    auxiliary_perceptual: bool = True
    adversarial: float = 0.0
    lecam: float = 0.0
    discriminator: float = 1.0

    def __post_init__(self) -> None:
        """Refuse negative weights and NaN."""
        names = ("mse", *get_args(NetworkName), "quantizer", "auxiliary", "adversarial", "lecam", "discriminator")
        require_at_least(self, 0, *names)

    def networks(self) -> tuple[NetworkName, ...]:
        """The feature networks that take part."""
        return tuple(name for name in get_args(NetworkName) if getattr(self, name) > 0)

    def with_perceptual(self, name: Literal["none"] | NetworkName) -> LossWeights:
        """The same with all perceptual weight on one network, or with none."""
        total = self.convnext + self.lpips + self.local
        convnext, lpips, local = (total if network == name else 0.0 for network in ("convnext", "lpips", "local"))
        return replace(self, convnext=convnext, lpips=lpips, local=local)


class Objective(nn.Module):
    """The terms of both stages; holds the feature networks and freezes them, and has nothing to train.

    Args:
        networks: those that the weights of any call will ask for.
        patch_size: f.
    """

    def __init__(self, networks: Mapping[NetworkName, FeatureNetwork], patch_size: int) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: network.freeze() for name, network in networks.items()})
        self.patch_size = patch_size

    def forward(
        self,
        images: torch.Tensor,
        reconstruction: torch.Tensor,
        weights: LossWeights,
        *,
        prefix_strip: torch.Tensor | None = None,
        quantizer_loss: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The named terms of one batch, unweighted, and their sums.

        Args:
            images: (B, 3, h, h) in [0, 1].
            reconstruction: the same in shape.
            weights: of the terms; terms of weight 0 other than a network's are still computed.
            prefix_strip: (B, 3, f, K * f), in stage 1 with a prefix.
            quantizer_loss: scalar, in stage 1.

        Returns:
            `loss`, the weighted sum of all terms here; `reconstruction`, that of `mse` and the perceptual terms;
            `mse`; the distance of each network that takes part, by its name; `quantizer` and `auxiliary` where there
            is such a loss. `auxiliary` is the MSE of the first row plus the weighted perceptual terms of the image
            from `compose_first_row`, these only if the weights want them and `auxiliary` is not 0.
        """
        names = weights.networks()
        candidates = [reconstruction]
        if prefix_strip is not None and names and weights.auxiliary > 0 and weights.auxiliary_perceptual:
            candidates.append(compose_first_row(reconstruction, prefix_strip, self.patch_size))
        distances: dict[str, list[torch.Tensor]] = {name: self._distances(name, images, candidates) for name in names}
        terms = {"mse": F.mse_loss(reconstruction.float(), images.float())}
        terms |= {name: each[0] for name, each in distances.items()}
        reconstruction_loss = _weighted(terms, weights)
        rest: dict[str, torch.Tensor] = {}
        if quantizer_loss is not None:
            rest["quantizer"] = quantizer_loss
        if prefix_strip is not None:
            rest["auxiliary"] = auxiliary_mse(images, prefix_strip, self.patch_size)
            if len(candidates) > 1:
                composed = {name: each[1] for name, each in distances.items()}
                rest["auxiliary"] = rest["auxiliary"] + _weighted(composed, weights)
        loss = reconstruction_loss + _weighted(rest, weights) if rest else reconstruction_loss
        return {"loss": loss, "reconstruction": reconstruction_loss, **terms, **rest}

    def _distances(self, name: NetworkName, images: torch.Tensor, candidates: list[torch.Tensor]) -> list[torch.Tensor]:
        """Each candidate's distance from the images; all candidates pass the network as one batch."""
        assert name in self.networks, f"this objective was made without the network '{name}'"
        network = self.networks[name]
        assert isinstance(network, FeatureNetwork)
        with torch.no_grad():
            wanted = network(images)
        features = [feature.split(len(images)) for feature in network(torch.cat(candidates))]
        return [network.distance(found, wanted) for found in zip(*features, strict=True)]


def _weighted(terms: Mapping[str, torch.Tensor], weights: LossWeights) -> torch.Tensor:
    return torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()


def compose_first_row(reconstruction: torch.Tensor, prefix_strip: torch.Tensor, patch_size: int) -> torch.Tensor:
    """The image whose first row is drawn by the prefix codes; only that row passes gradient on.

    A feature network can judge a row only within a whole image. The rest is the reconstruction, detached.

    Args:
        reconstruction: (B, 3, h, h).
        prefix_strip: (B, 3, f, K * f); with K < G the row's remaining cells are the reconstruction's, with K > G the
            first K - G patches are further copies of the top-left one (the released layout) and left out.
        patch_size: f.

    Returns:
        (B, 3, h, h).
    """
    rest = reconstruction.detach()
    strip = prefix_strip[..., max(prefix_strip.shape[-1] - rest.shape[-1], 0) :]
    row = torch.cat([strip, rest[:, :, :patch_size, strip.shape[-1] :]], dim=3)
    return torch.cat([row, rest[:, :, patch_size:]], dim=2)


def auxiliary_mse(images: torch.Tensor, prefix_strip: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Mean squared error between the strip that the prefix codes draw and the image's first row of patches.

    Args:
        images: (B, 3, h, h).
        prefix_strip: (B, 3, f, K * f) with K <= G prefix patches for the row's first K, or K > G with the first
            K - G being further copies of the top-left patch (the released layout).
        patch_size: f.
    """
    row = images[:, :, :patch_size]  # (B, 3, f, h)
    copies = (prefix_strip.shape[-1] - row.shape[-1]) // patch_size
    if copies > 0:
        row = torch.cat([*[row[..., :patch_size]] * copies, row], dim=-1)
    return F.mse_loss(prefix_strip.float(), row[..., : prefix_strip.shape[-1]].float())
