"""Reach: which patches of the decoded image a code changes, measured by replacing one code at a time.

The decoder's counterpart of `alitok.metrics.influence`.
Shapes: N images, B of a batch, h image size, G grid side, P = G * G patches, K prefix length, T = K + P codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from alitok.metrics.codec import Codec, decode, device_of
from alitok.metrics.dependency import (
    ROUNDING,
    Dependency,
    Raster,
    Tally,
    choose_perturbations,
    perturbation_batches,
)
from alitok.metrics.features import full_precision


@dataclass(frozen=True, eq=False)
class Reach:
    """How codes change patches.

    Code i is replaced by that of another image. All change that a group of codes makes is split in the order in which
    codes are generated: patches before the code (past), its own, and those after it (future). A causal decoder has a
    past fraction of exactly 0. Prefix codes come before all patches and have no past.

    `pixels` (P, T) is the mean absolute change of the pixels of patch j by code i, where black to white is 1;
    `code_changed` (T,) the fraction of perturbations whose replacement code differs; `exact` if every code was replaced
    in each image.
    """

    raster: Raster
    pixels: Dependency
    code_changed: np.ndarray
    images: int
    perturbations: int
    exact: bool

    @property
    def past_fraction(self) -> float:
        """Of all change, in [0, 1]: 0 for a causal decoder; NaN if no code changes anything."""
        return self.pixels.fractions["all"].past.value


def reach_of(
    codec: Codec,
    codes: torch.Tensor,
    *,
    image_size: int,
    grid: int,
    prefix: int,
    seed: int = 0,
    batch_size: int = 64,
    per_code: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reach:
    """Replace codes (N, T) of at least 2 images one at a time and measure which patches change; G divides h.

    `batch_size` >= 2 changes nothing but rounding; `per_code` is the number of images in which each code is replaced
    (None = all for up to 100 codes, 16 for more); `progress` gets the perturbations done and their total.

    Raises:
        AlitokError: too few images, or the codec fails or returns something else than images.
    """
    raster = Raster(grid, prefix)
    assert codes.shape[1:] == (raster.length,), (codes.shape, raster)
    assert image_size % grid == 0, (image_size, grid)
    assert batch_size >= 2
    codes = codes.cpu()
    perturbations = choose_perturbations(len(codes), raster.length, per_code, seed)
    images, positions = perturbations.images, perturbations.positions
    directions = raster.directions_in_sequence()
    of_prefix = np.broadcast_to(np.arange(raster.length)[:, None] < prefix, directions.shape)
    tally = Tally(perturbations, directions, of_prefix)
    replacements = codes[perturbations.donors, positions]
    rows = np.flatnonzero((replacements != codes[images, positions]).numpy())
    with torch.no_grad(), full_precision(device_of(codec)):
        for batch in perturbation_batches(perturbations, rows, batch_size):
            perturbed = codes[images[batch.rows]]
            perturbed[np.arange(len(batch.rows)), positions[batch.rows]] = replacements[batch.rows]
            decoded = decode(codec, torch.cat([codes[batch.bases], perturbed]), image_size)
            bases = len(batch.bases)
            changes = (decoded[bases:] - decoded[:bases][batch.base_of]).abs()
            means = changes.unflatten(3, (grid, -1)).unflatten(2, (grid, -1)).mean((1, 3, 5)).flatten(1)  # (B, P)
            tally.add(batch.rows, means.masked_fill(means < ROUNDING, 0.0))
            if progress is not None:
                progress(int(batch.rows[-1]) + 1, len(perturbations))
    changed = np.bincount(positions[rows], minlength=raster.length) / perturbations.per_position()
    return Reach(raster, tally.dependency(seed), changed, len(codes), len(perturbations), perturbations.exact)
