"""Mean and covariance of features, gathered from a stream in any pieces.

Enter: features (N, D) of images, batch by batch, on any device. Leave: their count, mean (D,) and covariance (D, D)
in float64. However the images were divided into batches and over processes, the results agree to about 1e-12.
Shapes: N images of a batch, D features, K blocks.

Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch

from alitok.core.distributed import World
from alitok.core.errors import AlitokError

_FOLD = 512  # images gathered before their products are formed: a (D, D) matrix is read and written for each fold
_CPU = torch.device("cpu")


class Gaussian(NamedTuple):
    """What the Frechet distance sees of a set of images: mean (D,) and covariance (D, D), both float64."""

    mean: torch.Tensor
    covariance: torch.Tensor


class Moments:
    """Count, mean and sum of centred products of the features that it was shown.

    Args:
        dimensions: D.
        device: where the sums are kept and formed; anything that has float64, so not `mps`.
    """

    def __init__(self, dimensions: int, device: torch.device = _CPU) -> None:
        self._count = 0
        self._mean = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self._products = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)
        self._waiting: list[torch.Tensor] = []

    @classmethod
    def of(cls, count: int, mean: torch.Tensor, products: torch.Tensor) -> Self:
        """From what `count`, `mean` (D,) and `products` (D, D) gave before."""
        moments = cls(len(mean), mean.device)
        moments._count = count
        moments._mean.copy_(mean)
        moments._products.copy_(products)
        return moments

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self._mean)

    @property
    def count(self) -> int:
        """How many images were shown."""
        return self._count + sum(map(len, self._waiting))

    @property
    def mean(self) -> torch.Tensor:
        """(D,) float64; zeros before any image."""
        self._fold()
        return self._mean

    @property
    def products(self) -> torch.Tensor:
        """The sum over images of (x - mean)(x - mean)^T, (D, D) float64."""
        self._fold()
        return self._products

    def update(self, features: torch.Tensor) -> None:
        """Add the features (N, D) of N images, any float type and device.

        Raises:
            AlitokError: a feature is NaN or infinite; nothing is added then.
        """
        require_finite(features, self.dimensions)
        self._waiting.append(features.detach().to(self._mean.device).to(torch.float64))
        if sum(map(len, self._waiting)) >= _FOLD:
            self._fold()

    def covariance(self) -> torch.Tensor:
        """Unbiased, like `numpy.cov(features, rowvar=False)`: (D, D) float64.

        Raises:
            AlitokError: fewer than two images were shown.
        """
        if self.count < 2:
            raise AlitokError(f"A covariance needs at least two images, not {self.count}; give more.")
        return self.products / (self.count - 1)

    def gaussian(self) -> Gaussian:
        """Mean and covariance, on the CPU.

        Raises:
            AlitokError: fewer than two images were shown.
        """
        return Gaussian(self.mean.cpu(), self.covariance().cpu())

    def all_reduced(self, world: World) -> Moments:
        """The moments of the images of all processes, the same on each; called by all of them."""
        if world.size == 1:
            return self
        mean, products = self.mean, self.products
        total = int(world.sum(torch.tensor(self.count, device=mean.device)))
        if total == 0:
            return self
        whole = world.sum(mean * (self.count / total))
        shift = mean - whole
        return Moments.of(total, whole, world.sum(torch.addr(products, shift, shift, alpha=self.count)))

    def _fold(self) -> None:
        if not self._waiting:
            return
        rows = torch.cat(self._waiting)
        self._waiting.clear()
        mean = rows.mean(0)
        rows -= mean
        self._absorb(len(rows), mean, rows.T @ rows)

    def _absorb(self, count: int, mean: torch.Tensor, products: torch.Tensor) -> None:
        self._fold()
        if count == 0:
            return
        total = self._count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._products += products
        self._products.addr_(shift, shift, alpha=self._count * count / total)
        self._count = total


class BlockMoments:
    """Moments of K random blocks of the images, from which `frechet_interval` draws resamples.

    An image's block is a hash of its number, so that blocks are alike in whatever order the images come (sorted by
    class, or one of each class in turn), and the same on any number of processes. Takes K · D² · 8 bytes, 670 MB for 20
    blocks of 2048 features.

    Args:
        dimensions: D.
        blocks: K, at least 2.
        device: as in `Moments`.
    """

    def __init__(self, dimensions: int, blocks: int = 20, device: torch.device = _CPU) -> None:
        assert blocks >= 2, blocks
        self.blocks = [Moments(dimensions, device) for _ in range(blocks)]

    def update(self, features: torch.Tensor, numbers: torch.Tensor) -> None:
        """Add the features (N, D) of images with these numbers (N,), integers from 0.

        Raises:
            AlitokError: a feature is NaN or infinite; nothing is added then.
        """
        assert len(features) == len(numbers), (len(features), len(numbers))
        require_finite(features, self.blocks[0].dimensions)
        places = _mix(numbers.cpu().numpy()) % np.uint64(len(self.blocks))
        for place in np.unique(places):
            rows = torch.from_numpy(np.flatnonzero(places == place)).to(features.device)
            self.blocks[int(place)].update(features[rows])

    def all_reduced(self, world: World) -> BlockMoments:
        """The blocks of the images of all processes, the same on each; called by all of them."""
        whole = BlockMoments(0, len(self.blocks))
        whole.blocks = [block.all_reduced(world) for block in self.blocks]
        return whole

    def total(self) -> Moments:
        """The moments of all images shown."""
        return merged(self.blocks)


def merged(parts: Sequence[Moments], weights: Sequence[int] | None = None) -> Moments:
    """The moments of all images of the parts together, on the device of the first.

    Args:
        parts: at least one, all of the same D.
        weights: how often each part counts, once if None; a part that counts twice is as if shown twice.
    """
    times = [1] * len(parts) if weights is None else list(weights)
    whole = Moments(parts[0].dimensions, parts[0].mean.device)
    for part, repeats in zip(parts, times, strict=True):
        whole._absorb(part.count * repeats, part.mean.to(whole._mean.device), part.products.to(whole._mean) * repeats)
    return whole


def require_finite(features: torch.Tensor, dimensions: int) -> None:
    """Check features (N, D).

    Raises:
        AlitokError: a feature is NaN or infinite; it says of how many images.
    """
    assert features.ndim == 2, features.shape
    assert features.shape[1] == dimensions, (features.shape, dimensions)
    finite = features.isfinite().all(1)
    if not finite.all():
        broken = int((~finite).sum())
        raise AlitokError(
            f"The features of {broken} of {len(finite)} images are not finite numbers; the feature network or the "
            "images are broken: look at them, and at the network's weights."
        )


def require_same_dimensions(first: int, second: int) -> None:
    """Check that two sets have the same number of features.

    Raises:
        AlitokError: they have not.
    """
    if first != second:
        raise AlitokError(
            f"Statistics of {first} features cannot be compared with statistics of {second}; take both from the same "
            "layer of the same network."
        )


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Integers (N,) -> (N,) uint64 that look random; the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
