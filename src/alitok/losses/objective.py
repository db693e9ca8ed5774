"""The tokenizer's objective, as named loss terms and their weighted sum.

Source: AliTok, L = L_mse + L_perceptual + L_quant + L_aux; the trainer, which holds the discriminator, adds the
adversarial term. Shapes: B images, h image side, f patch side, G = h / f grid side, K prefix.
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
        convnext, lpips, local: distance in the features of that network; with 0 the network is not run.
        auxiliary: loss of the first row as decoded from the prefix codes.
        auxiliary_perceptual: whether that loss has perceptual terms (the paper) or is the MSE alone (released v1).
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
        names = ("mse", *get_args(NetworkName), "quantizer", "auxiliary", "adversarial", "lecam", "discriminator")
        require_at_least(self, 0, *names)

    def networks(self) -> tuple[NetworkName, ...]:
        """The feature networks with a weight above 0."""
        return tuple(name for name in get_args(NetworkName) if getattr(self, name) > 0)

    def with_perceptual(self, name: Literal["none"] | NetworkName) -> LossWeights:
        """The same with all perceptual weight on one network, or without any."""
        total = self.convnext + self.lpips + self.local
        convnext, lpips, local = (total if network == name else 0.0 for network in ("convnext", "lpips", "local"))
        return replace(self, convnext=convnext, lpips=lpips, local=local)


class Objective(nn.Module):
    """The loss terms of both stages; holds the frozen feature networks and has no trainable parameters."""

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
        """The unweighted terms of one batch, and the weighted sums `loss` and `reconstruction`.

        Images are (B, 3, h, h) in [0, 1]; `prefix_strip` (B, 3, f, K * f) and the scalar `quantizer_loss` are given in
        stage 1 only, and add `auxiliary` and `quantizer`. Terms of weight 0 are computed too, except those of a
        network. `reconstruction` sums `mse` and the networks' distances; `auxiliary` is the MSE of the first row plus,
        if the weights select them, the weighted perceptual terms of the image from `compose_first_row`.
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
        """Each candidate's distance from the images; all candidates run through the network as one batch."""
        assert name in self.networks, f"this objective was made without the network '{name}'"
        network = self.networks[name]
        assert isinstance(network, FeatureNetwork)
        with torch.no_grad():
            target = network(images)
        features = [feature.split(len(images)) for feature in network(torch.cat(candidates))]
        return [network.distance(each, target) for each in zip(*features, strict=True)]


def _weighted(terms: Mapping[str, torch.Tensor], weights: LossWeights) -> torch.Tensor:
    return torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()


def compose_first_row(reconstruction: torch.Tensor, prefix_strip: torch.Tensor, patch_size: int) -> torch.Tensor:
    """The image (B, 3, h, h) whose first row is decoded from the prefix codes; only that row passes gradients on.

    A feature network can score a row only within a whole image; the rest is the reconstruction, detached. With K < G
    the row's remaining cells are the reconstruction's; with K > G the first K - G patches of the strip (B, 3, f, K * f)
    repeat the top-left one (the released layout) and are left out.
    """
    rest = reconstruction.detach()
    strip = prefix_strip[..., max(prefix_strip.shape[-1] - rest.shape[-1], 0) :]
    row = torch.cat([strip, rest[:, :, :patch_size, strip.shape[-1] :]], dim=3)
    return torch.cat([row, rest[:, :, patch_size:]], dim=2)


def auxiliary_mse(images: torch.Tensor, prefix_strip: torch.Tensor, patch_size: int) -> torch.Tensor:
    """MSE between the strip decoded from the prefix codes and the image's first row of patches.

    The strip covers the row as in `compose_first_row`.
    """
    row = images[:, :, :patch_size]  # (B, 3, f, h)
    copies = (prefix_strip.shape[-1] - row.shape[-1]) // patch_size
    if copies > 0:
        row = torch.cat([*[row[..., :patch_size]] * copies, row], dim=-1)
    return F.mse_loss(prefix_strip.float(), row[..., : prefix_strip.shape[-1]].float())
