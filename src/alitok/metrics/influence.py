"""Which patches of an image move which of its codes, measured by disturbing one patch at a time.

Enter: a codec and images. Leaves: `Influence`, a map of T codes by P patches, and the share of influence that comes
from the future, from patches behind a code's own in raster order. A generator that draws codes from left to right
has not seen anything of them yet.
Shapes: N images, B of a call, h image side, f patch side, G grid side, P = G * G patches, K prefix, T = K + P codes,
D width of a feature, V codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from alitok.metrics.codec import Codec, Looked, device_of, look
from alitok.metrics.dependency import ROUNDING, Dependency, Pairs, Raster, Tally, choose_pairs, pair_batches
from alitok.metrics.features import full_precision

_MOST_VALUES = 2**24  # numbers of one block of probabilities: 64 MB
_COMPARED = 4096  # pairs whose patches are compared at a time


@dataclass(frozen=True, eq=False)
class Influence:
    """How patches move codes.

    The images are changed in a way that real images differ: patch j becomes what stands there in another image.
    A code whose patch hardly varies over the data is therefore hardly moved by it, and a patch that is the same in
    both images moves nothing; `disturbed` says how often it was another one.

    Shares. All influence on a group of codes is divided by where the disturbed patch lies, seen from the code: before
    its cell in raster order (past), behind it (future), or its own cell, which is neither: a code is supposed to tell
    of its own patch, and whoever guesses it is asked about just that. So a tokenizer of independent patches has an
    own share of 1 and a future of 0, like any encoder that looks back only. Influence on all codes is added up before
    it is divided, so that codes which nothing moves do not count as much as others. An encoder whose codes are moved
    by all patches alike would have a future share of `even`, a little less than a half for grid codes; prefix codes
    stand for cells of the first row, behind which most of an image lies, so that theirs says little by itself.

    Attributes:
        raster: where codes stand.
        codes: (T, P) share of images in which code i becomes another one.
        features: (T, P) how far feature i moves, over how far apart the features of two images are there on
            average; None without features.
        probabilities: (T, P) total variation, in [0, 1], between what code i probably is before and after; None
            without features and a codebook. A code's probability is that of its round Gaussian around its codebook
            vector, given the feature: softmax(-D d^2 / (2 m)), with d^2 the squared distances from the feature to all
            codebook vectors and m the mean squared distance from a feature to its code over all images. m / D is
            the variance at which such features are likeliest.
        disturbed: (P,) share of pairs in which the patch became another one.
        images: N.
        pairs: how often a patch was replaced.
        exact: whether each patch was, in each image.
    """

    raster: Raster
    codes: Dependency
    features: Dependency | None
    probabilities: Dependency | None
    disturbed: np.ndarray
    images: int
    pairs: int
    exact: bool

    @property
    def future_share(self) -> float:
        """Of all changes of codes, in [0, 1]: the one number of this map. NaN where no code ever changes."""
        return self.codes.shares["all"].future.value

    @property
    def grid_future_share(self) -> float:
        """Of changes of grid codes, which can be compared between tokenizers with and without a prefix."""
        return self.codes.shares["grid"].future.value


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
    """Disturb images patch by patch, and see which codes change.

    A disturbed image and the image itself go through the encoder in one call.

    Args:
        codec: anything with `encode` and `decode`, asked on its own device.
        images: (N, 3, h, h) float32 in [0, 1], at least 2, on any device.
        grid: G, which divides h.
        prefix: K.
        seed: of the other images, of which pairs are taken, and of the intervals.
        batch_size: images of a call, at least 2; changes nothing but rounding.
        per_patch: images in which each patch is disturbed; None = all for up to 100 patches (exact), 16 for more.
        progress: called with the pairs done and all pairs.

    Raises:
        AlitokError: there are too few images, or the codec fails or gives something else than codes.
    """
    raster = Raster(grid, prefix)
    assert images.ndim == 4, images.shape
    assert images.shape[-1] % grid == 0, (images.shape, grid)
    assert batch_size >= 2
    pairs = choose_pairs(len(images), raster.patches, per_patch, seed)
    with torch.no_grad(), full_precision(device_of(codec)):
        scale = _scale_of(codec, images, batch_size)
        directions = raster.directions().T
        of_prefix = np.broadcast_to(np.arange(raster.length) < prefix, directions.shape)
        tallies = {name: Tally(pairs, directions, of_prefix) for name in ("codes", *scale.kinds)}
        rows = _disturbed(images, pairs, grid)
        for batch in pair_batches(pairs, rows, batch_size):
            seen = look(codec, torch.cat([images[batch.bases], replaced(images, pairs, batch.rows, grid)]))
            before, after = _parted(seen, len(batch.bases), batch.base_of)
            for name, changes in scale.changes(before, after).items():
                tallies[name].add(batch.rows, changes)
            if progress is not None:
                progress(int(batch.rows[-1]) + 1, len(pairs))
    found = {name: tally.dependency(transposed=True, seed=seed) for name, tally in tallies.items()}
    moved = np.bincount(pairs.places[rows], minlength=raster.patches) / pairs.per_place()
    return Influence(
        raster,
        found["codes"],
        found.get("features"),
        found.get("probabilities"),
        moved,
        len(images),
        len(pairs),
        pairs.exact,
    )


def replaced(images: torch.Tensor, pairs: Pairs, rows: np.ndarray, grid: int) -> torch.Tensor:
    """The images of some pairs (B,), each with its patch from the donor: (B, 3, h, h)."""
    picked = images[pairs.images[rows]]
    row, column = np.divmod(pairs.places[rows], grid)
    each = np.arange(len(rows))
    _cut(picked, grid)[each, :, row, :, column] = _cut(images, grid)[pairs.donors[rows], :, row, :, column]
    return picked


def _cut(images: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, 3, h, h) -> the same memory as (B, 3, G, f, G, f)."""
    return images.unflatten(3, (grid, -1)).unflatten(2, (grid, -1))


def _disturbed(images: torch.Tensor, pairs: Pairs, grid: int) -> np.ndarray:
    """The pairs whose patch becomes another one; only they can move a code."""
    found = []
    for rows in np.array_split(np.arange(len(pairs)), -(-len(pairs) // _COMPARED)):
        row, column = np.divmod(pairs.places[rows], grid)
        mine, theirs = (_cut(images, grid)[of[rows], :, row, :, column] for of in (pairs.images, pairs.donors))
        found.append(rows[(mine != theirs).flatten(1).any(1).cpu().numpy()])
    return np.concatenate(found)


def _parted(seen: Looked, bases: int, base_of: np.ndarray) -> tuple[Looked, Looked]:
    """What was seen of undisturbed images, once for each of their pairs, and of the disturbed ones."""
    features = seen.features
    before = Looked(seen.codes[:bases][base_of], None if features is None else features[:bases][base_of])
    return before, Looked(seen.codes[bases:], None if features is None else features[bases:])


class _Scale(NamedTuple):
    """What changes are measured in.

    Attributes:
        apart: (T,) mean distance of the features of two images; None without features.
        codebook: (V, D); None where there are no probabilities.
        temperature: what squared distances are divided by.
    """

    apart: torch.Tensor | None
    codebook: torch.Tensor | None
    temperature: float

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is measured besides the codes."""
        return ("features",) * (self.apart is not None) + ("probabilities",) * (self.codebook is not None)

    def changes(self, before: Looked, after: Looked) -> dict[str, torch.Tensor]:
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
        """Total variation (B, T) between what codes probably are, given features (B, T, D) before and after."""
        assert self.codebook is not None
        rows = max(1, _MOST_VALUES // len(self.codebook))
        parts = zip(before.flatten(0, 1).split(rows), after.flatten(0, 1).split(rows), strict=True)
        found = [(self._probabilities(a) - self._probabilities(b)).abs().sum(1) / 2 for a, b in parts]
        return torch.cat(found).view(before.shape[:2])

    def _probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """(n, D) -> (n, V); the features' own squares are the same for all codes and cancel."""
        assert self.codebook is not None
        nearness = 2 * features @ self.codebook.T - self.codebook.square().sum(1)
        return (nearness / self.temperature).softmax(1)


def _without_rounding(changes: torch.Tensor) -> torch.Tensor:
    return changes.masked_fill(changes < ROUNDING, 0.0)


def _scale_of(codec: Codec, images: torch.Tensor, batch_size: int) -> _Scale:
    seen = [look(codec, some) for some in images.split(batch_size)]
    if seen[0].features is None:
        return _Scale(None, None, 0.0)
    features = torch.cat([each.features.float() for each in seen if each.features is not None])  # (N, T, D)
    on_host = features.cpu()  # not every device can do what follows
    apart = torch.stack([torch.pdist(on_host[:, place]).mean() for place in range(features.shape[1])]).to(features)
    codebook = getattr(codec, "codebook", None)
    if codebook is None:
        return _Scale(apart, None, 0.0)
    codebook = codebook.detach().float().to(features.device)
    nearest = codebook[torch.cat([each.codes for each in seen])]
    squared = (features - nearest).square().sum(-1).mean().item()
    temperature = 2 * squared / codebook.shape[1]
    return _Scale(apart, codebook if temperature > 0 else None, temperature)
