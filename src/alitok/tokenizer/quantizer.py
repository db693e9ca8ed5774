"""The vector quantizer: nearest code in float32, straight-through gradients, online clustering of unused codes.

`forward` changes nothing; the trainer calls `cluster` once per step with the `candidates` of all its features.
Shapes: B images, T codes per image, V codebook size, D code width, N features.

Source: AliTok, section on quantization; online clustering after CVQ-VAE (Zheng & Vedaldi, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.distributed import World

COMMITMENT = 0.25  # weight of the term that pulls features towards their codes
USAGE_DECAY = 0.99  # of the running usage of each code
_DEAD_RATE = 10.0  # how sharply a code counts as unused
_ROWS = 8192  # features per block; bounds the memory of their distances to all codes


class Quantized(NamedTuple):
    """Output of `VectorQuantizer.forward`."""

    codes: torch.Tensor  # (B, T) int64
    vectors: torch.Tensor  # (B, T, D): the codes' vectors, gradients passing straight to the features
    loss: torch.Tensor  # scalar: codebook term + 0.25 * commitment term


@dataclass(frozen=True)
class Candidates:
    """For each code, how often it was the nearest to a feature, and the feature nearest to it.

    Microbatches and processes exchange these V * (D + 2) numbers and never a table of distances.
    """

    counts: torch.Tensor  # (V,) int64
    distances: torch.Tensor  # (V,) squared distance of the nearest feature
    features: torch.Tensor  # (V, D) that feature

    @classmethod
    def none(cls, codebook_size: int, width: int, device: torch.device) -> Candidates:
        """Of no features."""
        counts = torch.zeros(codebook_size, dtype=torch.int64, device=device)
        distances = torch.full((codebook_size,), torch.inf, device=device)
        return cls(counts, distances, torch.zeros(codebook_size, width, device=device))

    def merge(self, other: Candidates) -> Candidates:
        """Of the features of both; ties go to this side."""
        closer = other.distances < self.distances
        return Candidates(
            self.counts + other.counts,
            torch.where(closer, other.distances, self.distances),
            torch.where(closer[:, None], other.features, self.features),
        )

    def all_reduced(self, world: World) -> Candidates:
        """Of the features of all processes, the same bits on each; ties go to the lowest rank."""
        if world.size == 1:
            return self
        distances = world.minimum(self.distances.clone())
        rank = torch.where(self.distances == distances, world.rank, world.size)
        mine = world.minimum(rank.clone()) == world.rank
        features = world.sum(torch.where(mine[:, None], self.features, 0.0))
        return Candidates(world.sum(self.counts.clone()), distances, features)


class VectorQuantizer(nn.Module):
    """A codebook of V Euclidean vectors of size D."""

    usage: torch.Tensor

    def __init__(self, codebook_size: int, code_width: int) -> None:
        super().__init__()
        bound = 1 / codebook_size
        self.codebook = nn.Parameter(torch.empty(codebook_size, code_width).uniform_(-bound, bound))
        # Running fraction of assignments per code; zero marks all as unused, so the first step replaces all.
        self.register_buffer("usage", torch.zeros(codebook_size))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T) -> vectors (B, T, D)."""
        return F.embedding(codes, self.codebook)

    @torch.no_grad()
    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, T, D) -> codes (B, T) int64 of the nearest codebook vectors."""
        blocks = features.flatten(0, -2).split(_ROWS)
        return torch.cat([self._distances(rows).argmin(dim=1) for rows in blocks]).view(features.shape[:-1])

    def _distances(self, features: torch.Tensor) -> torch.Tensor:
        """Squared distances (N, V) of features (N, D), in float32 also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.detach().float()
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
    def candidates(self, features: torch.Tensor) -> Candidates:
        """What `cluster` needs of features (B, T, D), with the current codebook."""
        size, width = self.codebook.shape
        found = Candidates.none(size, width, features.device)
        for rows in features.detach().float().flatten(0, -2).split(_ROWS):
            distances = self._distances(rows)
            nearest, row = distances.min(dim=0)
            codes = distances.argmin(dim=1)
            # `bincount` would sync host and device for the size of its result.
            counts = torch.zeros(size, dtype=torch.int64, device=codes.device)
            found = found.merge(Candidates(counts.scatter_add_(0, codes, torch.ones_like(codes)), nearest, rows[row]))
        return found

    @torch.no_grad()
    def cluster(self, candidates: Candidates) -> None:
        """One step of online clustering: move codes that are hardly used onto features.

        With `p_k` the running usage of code k, `a_k = exp(-10 V p_k / 0.01 - 1e-3)` and `z*_k` the feature nearest to
        code k: `e_k <- (1 - a_k) e_k + a_k z*_k`. The candidates are of all features of this step on all processes,
        from the codebook before this call.
        """
        fraction = candidates.counts / candidates.counts.sum()
        self.usage.mul_(USAGE_DECAY).add_(fraction, alpha=1 - USAGE_DECAY)
        size = self.codebook.shape[0]
        move = torch.exp(-_DEAD_RATE * size * self.usage / (1 - USAGE_DECAY) - 1e-3)[:, None]
        self.codebook.lerp_(candidates.features.to(self.codebook.dtype), move)
