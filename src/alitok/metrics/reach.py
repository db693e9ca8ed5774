"""Which patches of the drawn image a code moves, measured by changing one code at a time.

Enter: a codec and codes. Leaves: `Reach`, a map of P patches by T codes. It is the decoder's side of
`alitok.metrics.influence`: there patches move codes, here codes move patches.
Shapes: N images, B of a call, h image side, G grid side, P = G * G patches, K prefix, T = K + P codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from alitok.metrics.codec import Codec, device_of, draw
from alitok.metrics.dependency import ROUNDING, Dependency, Pairs, Raster, Tally, choose_pairs, pair_batches
from alitok.metrics.features import full_precision


@dataclass(frozen=True, eq=False)
class Reach:
    """How codes move patches.

    Code i becomes the code at that place of another image. Shares are taken in the order in which codes are drawn:
    all change that a group of codes makes is divided by whether the patch comes before the code (past), is the code's
    own, or comes after (future). A causal decoder draws a patch from the codes up to its own, so its past share is
    exactly 0, and anything above 0 is a patch that no image can show before a later code is known. Prefix codes come
    before all patches, and have no past.

    Attributes:
        raster: where codes stand.
        pixels: (P, T) mean absolute change of the pixels of patch j by code i, where black to white is 1.
        replaced: (T,) share of pairs in which the code became another one.
        images: N.
        pairs: how often a code was replaced.
        exact: whether each code was, in each image.
    """

    raster: Raster
    pixels: Dependency
    replaced: np.ndarray
    images: int
    pairs: int
    exact: bool

    @property
    def past_share(self) -> float:
        """Of all change, in [0, 1]: 0 for a causal decoder. NaN where no code changes anything."""
        return self.pixels.shares["all"].past.value


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
    """Replace code after code, and see which patches change.

    Args:
        codec: anything with `encode` and `decode`.
        codes: (N, T) int64 of at least 2 images, on any device.
        image_size: h, divisible by G.
        grid: G.
        prefix: K.
        seed: of the other images, of which pairs are taken, and of the intervals.
        batch_size: images of a call, at least 2; changes nothing but rounding.
        per_code: images in which each code is replaced; None = all for up to 100 codes (exact), 16 for more.
        progress: called with the pairs done and all pairs.

    Raises:
        AlitokError: there are too few images, or the codec fails or gives something else than images.
    """
    raster = Raster(grid, prefix)
    assert codes.shape[1:] == (raster.length,), (codes.shape, raster)
    assert image_size % grid == 0, (image_size, grid)
    assert batch_size >= 2
    codes = codes.cpu()
    pairs = choose_pairs(len(codes), raster.length, per_code, seed)
    directions = raster.directions_in_sequence()
    tally = Tally(pairs, directions, np.broadcast_to(np.arange(raster.length)[:, None] < prefix, directions.shape))
    given = codes[pairs.donors, pairs.places]
    rows = np.flatnonzero((given != codes[pairs.images, pairs.places]).numpy())
    with torch.no_grad(), full_precision(device_of(codec)):
        for batch in pair_batches(pairs, rows, batch_size):
            changed = _changed(codes, pairs, batch.rows, given)
            images = draw(codec, torch.cat([codes[batch.bases], changed]), image_size)
            bases = len(batch.bases)
            tally.add(batch.rows, _by_patch((images[bases:] - images[:bases][batch.base_of]).abs(), grid))
            if progress is not None:
                progress(int(batch.rows[-1]) + 1, len(pairs))
    moved = np.bincount(pairs.places[rows], minlength=raster.length) / pairs.per_place()
    return Reach(raster, tally.dependency(transposed=True, seed=seed), moved, len(codes), len(pairs), pairs.exact)


def _changed(codes: torch.Tensor, pairs: Pairs, rows: np.ndarray, given: torch.Tensor) -> torch.Tensor:
    """The codes of some pairs (B,), each with one from its donor: (B, T)."""
    picked = codes[pairs.images[rows]]
    picked[np.arange(len(rows)), pairs.places[rows]] = given[rows]
    return picked


def _by_patch(changes: torch.Tensor, grid: int) -> torch.Tensor:
    """Means (B, P) of (B, 3, h, h) over each patch, without what is rounding."""
    means = changes.unflatten(3, (grid, -1)).unflatten(2, (grid, -1)).mean((1, 3, 5)).flatten(1)
    return means.masked_fill(means < ROUNDING, 0.0)
