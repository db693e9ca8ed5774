"""The vector quantizer, the only one: nearest code in float32, straight-through, kept in use by online clustering.

Enters: features (B, T, D). Leaves: codes (B, T), their vectors (B, T, D) and the quantizer's loss. `forward` changes
nothing; the trainer calls `cluster` once per step.

Source: AliTok, section on quantization; online clustering after CVQ-VAE (Zheng & Vedaldi, 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

COMMITMENT = 0.25  # weight of the term that pulls features towards their codes
USAGE_DECAY = 0.99  # of the running share of each code
_DEAD_RATE = 10.0  # how sharply a code counts as unused


class Quantized(NamedTuple):
    """What `VectorQuantizer.forward` returns."""

    codes: torch.Tensor  # (B, T) int64
    vectors: torch.Tensor  # (B, T, D): the codes' vectors, gradients passing straight to the features
    loss: torch.Tensor  # scalar: codebook term + 0.25 * commitment term


class VectorQuantizer(nn.Module):
    """A codebook of V plain Euclidean vectors of size D.

    Args:
        codebook_size: V.
        code_width: D.
    """

    usage: torch.Tensor

    def __init__(self, codebook_size: int, code_width: int) -> None:
        super().__init__()
        bound = 1 / codebook_size
        self.codebook = nn.Parameter(torch.empty(codebook_size, code_width).uniform_(-bound, bound))
        # Running share of assignments per code; zero marks every code as unused, so the first step replaces all.
        self.register_buffer("usage", torch.zeros(codebook_size))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T) -> vectors (B, T, D)."""
        return F.embedding(codes, self.codebook)

    @torch.no_grad()
    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, T, D) -> codes (B, T) int64 of the nearest codebook vectors."""
        return self._distances(features).argmin(dim=1).view(features.shape[:-1])

    def _distances(self, features: torch.Tensor) -> torch.Tensor:
        """Squared distances (B * T, V), in float32 whatever autocast says."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.detach().float().flatten(0, -2)
            codebook = self.codebook.detach().float()
            return torch.addmm(
                flat.square().sum(1, keepdim=True) + codebook.square().sum(1), flat, codebook.T, alpha=-2
            )

    def forward(self, features: torch.Tensor) -> Quantized:
        """Quantize features (B, T, D)."""
        features = features.float()
        codes = self.nearest(features)
        vectors = self.lookup(codes).float()
        loss = F.mse_loss(vectors, features.detach()) + COMMITMENT * F.mse_loss(features, vectors.detach())
        return Quantized(codes, features + (vectors - features).detach(), loss)

    @torch.no_grad()
    def cluster(self, features: torch.Tensor) -> None:
        """One step of online clustering: move codes that are hardly used onto features.

        With `p_k` the running share of code k, `a_k = exp(-10 V p_k / 0.01 - 1e-3)` and `z*_k` the feature nearest
        to code k: `e_k <- (1 - a_k) e_k + a_k z*_k`.

        Args:
            features: (B, T, D), the features of this step.
        """
        distances = self._distances(features)
        size = self.codebook.shape[0]
        share = torch.bincount(distances.argmin(dim=1), minlength=size) / distances.shape[0]
        self.usage.mul_(USAGE_DECAY).add_(share, alpha=1 - USAGE_DECAY)
        move = torch.exp(-_DEAD_RATE * size * self.usage / (1 - USAGE_DECAY) - 1e-3)[:, None]
        anchors = features.detach().float().flatten(0, -2)[distances.argmin(dim=0)]
        self.codebook.lerp_(anchors.to(self.codebook.dtype), move)
