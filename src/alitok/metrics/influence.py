"""Influence: which patches of an image change which of its codes, measured by replacing one patch at a time.

Shapes: N images, B of a batch, h image size, f patch size, G grid side, P = G * G patches, K prefix length,
T = K + P codes, D feature width, V codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from alitok.metrics.codec import Codec, Encoded, device_of, encode
from alitok.metrics.dependency import (
    ROUNDING,
    Dependency,
    Perturbations,
    Raster,
    Tally,
    choose_perturbations,
    perturbation_batches,
)
from alitok.metrics.features import full_precision

_BLOCK_VALUES = 2**24  # numbers of one block of probabilities: 64 MB
_COMPARED = 4096  # perturbations whose patches are compared at a time


@dataclass(frozen=True, eq=False)
class Influence:
    """How patches change codes.

    Patch j is replaced by the same patch of another image, so a code whose patch hardly varies over the data hardly
    changes, and a patch that is the same in both images changes nothing (see `patch_changed`).

    All influence on a group of codes is split by where the patch lies relative to the code's cell in raster order:
    before it (past), after it (future), or the cell itself (own). A causal encoder has a future fraction of 0.
    Influence is summed over the codes before it is split, so codes that nothing changes have no weight. Prefix codes
    stand for the first row, which most of an image comes after: compare grid codes.

    Attributes:
        codes: (T, P) fraction of images in which code i changes.
        features: (T, P) distance that feature i moves, relative to its mean distance between two images; None without
            features.
        probabilities: (T, P) total variation, in [0, 1], between the distributions of code i before and after; None
            without features and a codebook. They are softmax(-D d^2 / (2 m)), with d^2 the squared distances from the
            feature to all codebook vectors and m the mean squared distance from a feature to its code over all images:
            isotropic Gaussians around the codes with the maximum-likelihood variance m / D.
        patch_changed: (P,) fraction of perturbations whose replacement patch differs.
        exact: whether each patch was replaced in each image.
    """

    raster: Raster
    codes: Dependency
    features: Dependency | None
    probabilities: Dependency | None
    patch_changed: np.ndarray
    images: int
    perturbations: int
    exact: bool

    @property
    def future_fraction(self) -> float:
        """Of all changes of codes, in [0, 1]; NaN if no code ever changes."""
        return self.codes.fractions["all"].future.value

    @property
    def grid_future_fraction(self) -> float:
        """Of changes of grid codes: comparable between tokenizers with and without a prefix."""
        return self.codes.fractions["grid"].future.value


def influence_of(
    codec: Codec,
    images: torch.Tensor,
    *,
    grid: int,
    prefix: int,
    seed: int = 0,
    batch_size: int = 64,
    per_patch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Influence:
    """Replace patches of at least 2 images (N, 3, h, h) in [0, 1] one at a time and measure which codes change.

    `batch_size` >= 2 changes nothing but rounding; `per_patch` is the number of images in which each patch is replaced
    (None = all for up to 100 patches, 16 for more); `progress` gets the perturbations done and their total.

    Raises:
        AlitokError: too few images, or the codec fails or returns something else than codes.
    """
    raster = Raster(grid, prefix)
    assert images.ndim == 4, images.shape
    assert images.shape[-1] % grid == 0, (images.shape, grid)
    assert batch_size >= 2
    perturbations = choose_perturbations(len(images), raster.patches, per_patch, seed)
    with torch.no_grad(), full_precision(device_of(codec)):
        scale = _scale_of(codec, images, batch_size)
        directions = raster.directions().T
        of_prefix = np.broadcast_to(np.arange(raster.length) < prefix, directions.shape)
        tallies = {name: Tally(perturbations, directions, of_prefix) for name in ("codes", *scale.kinds)}
        rows = _changing(images, perturbations, grid)
        for batch in perturbation_batches(perturbations, rows, batch_size):
            perturbed = replace_patches(images, perturbations, batch.rows, grid)
            encoded = encode(codec, torch.cat([images[batch.bases], perturbed]))
            before, after = _split(encoded, len(batch.bases), batch.base_of)
            for name, changes in scale.changes(before, after).items():
                tallies[name].add(batch.rows, changes)
            if progress is not None:
                progress(int(batch.rows[-1]) + 1, len(perturbations))
    found = {name: tally.dependency(seed) for name, tally in tallies.items()}
    changed = np.bincount(perturbations.positions[rows], minlength=raster.patches) / perturbations.per_position()
    return Influence(
        raster,
        found["codes"],
        found.get("features"),
        found.get("probabilities"),
        changed,
        len(images),
        len(perturbations),
        perturbations.exact,
    )


def replace_patches(images: torch.Tensor, perturbations: Perturbations, rows: np.ndarray, grid: int) -> torch.Tensor:
    """The images of some perturbations (B,), each with its patch from the donor: (B, 3, h, h)."""
    picked = images[perturbations.images[rows]]
    row, column = np.divmod(perturbations.positions[rows], grid)
    each = np.arange(len(rows))
    donors = perturbations.donors[rows]
    _cut(picked, grid)[each, :, row, :, column] = _cut(images, grid)[donors, :, row, :, column]
    return picked


def _cut(images: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, 3, h, h) -> a view (B, 3, G, f, G, f)."""
    return images.unflatten(3, (grid, -1)).unflatten(2, (grid, -1))


def _changing(images: torch.Tensor, perturbations: Perturbations, grid: int) -> np.ndarray:
    """Perturbations whose replacement patch differs; only they can change a code."""
    found = []
    for rows in np.array_split(np.arange(len(perturbations)), -(-len(perturbations) // _COMPARED)):
        row, column = np.divmod(perturbations.positions[rows], grid)
        sources = perturbations.images, perturbations.donors
        mine, theirs = (_cut(images, grid)[source[rows], :, row, :, column] for source in sources)
        found.append(rows[(mine != theirs).flatten(1).any(1).cpu().numpy()])
    return np.concatenate(found)


def _split(encoded: Encoded, bases: int, base_of: np.ndarray) -> tuple[Encoded, Encoded]:
    """The unperturbed images, repeated for each of their perturbations, and the perturbed ones."""
    features = encoded.features
    before = Encoded(encoded.codes[:bases][base_of], None if features is None else features[:bases][base_of])
    return before, Encoded(encoded.codes[bases:], None if features is None else features[bases:])


class _Scale(NamedTuple):
    apart: torch.Tensor | None  # (T,) mean feature distance between two images; None without features
    codebook: torch.Tensor | None  # (V, D); None without probabilities
    temperature: float  # divides squared distances

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is measured besides the codes."""
        return ("features",) * (self.apart is not None) + ("probabilities",) * (self.codebook is not None)

    def changes(self, before: Encoded, after: Encoded) -> dict[str, torch.Tensor]:
        """Of each code, (B, T), by kind."""
        found = {"codes": before.codes != after.codes}
        if self.apart is not None:
            assert before.features is not None
            assert after.features is not None
            moved = (after.features - before.features).norm(dim=-1)
            relative = torch.where(self.apart > 0, moved / self.apart.clamp(min=1e-30), 0.0)
            found["features"] = _without_rounding(relative)
            if self.codebook is not None:
                found["probabilities"] = _without_rounding(self._variation(before.features, after.features))
        return found

    def _variation(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Total variation (B, T) between the code distributions of features (B, T, D) before and after."""
        assert self.codebook is not None
        rows = max(1, _BLOCK_VALUES // len(self.codebook))
        parts = zip(before.flatten(0, 1).split(rows), after.flatten(0, 1).split(rows), strict=True)
        found = [(self._probabilities(a) - self._probabilities(b)).abs().sum(1) / 2 for a, b in parts]
        return torch.cat(found).view(before.shape[:2])

    def _probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """(n, D) -> (n, V); the features' own squares are the same for all codes and cancel."""
        assert self.codebook is not None
        logits = 2 * features @ self.codebook.T - self.codebook.square().sum(1)
        return (logits / self.temperature).softmax(1)


def _without_rounding(changes: torch.Tensor) -> torch.Tensor:
    return changes.masked_fill(changes < ROUNDING, 0.0)


def _scale_of(codec: Codec, images: torch.Tensor, batch_size: int) -> _Scale:
    encoded = [encode(codec, some) for some in images.split(batch_size)]
    if encoded[0].features is None:
        return _Scale(None, None, 0.0)
    features = torch.cat([each.features.float() for each in encoded if each.features is not None])  # (N, T, D)
    on_cpu = features.cpu()  # some devices have no pdist
    apart = torch.stack([torch.pdist(on_cpu[:, place]).mean() for place in range(features.shape[1])]).to(features)
    codebook = getattr(codec, "codebook", None)
    if codebook is None:
        return _Scale(apart, None, 0.0)
    codebook = codebook.detach().float().to(features.device)
    nearest = codebook[torch.cat([each.codes for each in encoded])]
    squared = (features - nearest).square().sum(-1).mean().item()
    temperature = 2 * squared / codebook.shape[1]
    return _Scale(apart, codebook if temperature > 0 else None, temperature)
