"""Mean and covariance of features from a stream, in float64; batches and processes change them by about 1e-12.

Shapes: N images of a batch, D features, K blocks. Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances" (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch

from alitok.core.distributed import World
from alitok.core.errors import AlitokError

_FOLD = 512  # images collected before their products are summed: each fold reads and writes a (D, D) matrix
_CPU = torch.device("cpu")


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D) of a set of images, float64."""

    mean: torch.Tensor
    covariance: torch.Tensor


class Moments:
    """Count, mean and sum of centered products of D features, on a device with float64 (so not `mps`)."""

    def __init__(self, dimensions: int, device: torch.device = _CPU) -> None:
        self._count = 0
        self._mean = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self._products = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)
        self._pending: list[torch.Tensor] = []

    @classmethod
    def of(cls, count: int, mean: torch.Tensor, products: torch.Tensor) -> Self:
        """From the `count`, `mean` (D,) and `products` (D, D) of another."""
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
        """Images seen."""
        return self._count + sum(map(len, self._pending))

    @property
    def mean(self) -> torch.Tensor:
        """(D,) float64; zeros before any image."""
        self._fold()
        return self._mean

    @property
    def products(self) -> torch.Tensor:
        """The sum of (x - mean)(x - mean)^T, (D, D) float64."""
        self._fold()
        return self._products

    def update(self, features: torch.Tensor) -> None:
        """Add features (N, D), any float type and device.

        Raises:
            AlitokError: a feature is NaN or infinite; nothing is added.
        """
        require_finite(features, self.dimensions)
        self._pending.append(features.detach().to(self._mean.device).to(torch.float64))
        if sum(map(len, self._pending)) >= _FOLD:
            self._fold()

    def covariance(self) -> torch.Tensor:
        """Unbiased, like `numpy.cov(features, rowvar=False)`: (D, D) float64; an error for fewer than two images."""
        if self.count < 2:
            raise AlitokError(f"A covariance needs at least two images, not {self.count}.")
        return self.products / (self.count - 1)

    def gaussian(self) -> Gaussian:
        """Mean and covariance, on the CPU; an error for fewer than two images."""
        return Gaussian(self.mean.cpu(), self.covariance().cpu())

    def all_reduced(self, world: World) -> Moments:
        """Of the images of all processes; every process calls it and gets the same."""
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
        if not self._pending:
            return
        rows = torch.cat(self._pending)
        self._pending.clear()
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
    """Moments of K >= 2 random blocks of the images, which `frechet_interval` resamples; takes 8 K D^2 bytes.

    The block is a hash of the image's number, so it depends neither on the order of images nor on processes.
    """

    def __init__(self, dimensions: int, blocks: int = 20, device: torch.device = _CPU) -> None:
        assert blocks >= 2, blocks
        self.blocks = [Moments(dimensions, device) for _ in range(blocks)]

    def update(self, features: torch.Tensor, numbers: torch.Tensor) -> None:
        """Add features (N, D) of the images with these numbers (N,), integers from 0.

        Raises:
            AlitokError: a feature is NaN or infinite; nothing is added.
        """
        assert len(features) == len(numbers), (len(features), len(numbers))
        require_finite(features, self.blocks[0].dimensions)
        places = _mix(numbers.cpu().numpy()) % np.uint64(len(self.blocks))
        for place in np.unique(places):
            rows = torch.from_numpy(np.flatnonzero(places == place)).to(features.device)
            self.blocks[int(place)].update(features[rows])

    def all_reduced(self, world: World) -> BlockMoments:
        """Of the images of all processes; every process calls it and gets the same."""
        whole = BlockMoments(0, len(self.blocks))
        whole.blocks = [block.all_reduced(world) for block in self.blocks]
        return whole

    def total(self) -> Moments:
        """The moments of all images."""
        return merged(self.blocks)


def merged(parts: Sequence[Moments], weights: Sequence[int] | None = None) -> Moments:
    """The moments of all images of the parts, on the first one's device, each counted `weights` times (None = once)."""
    times = [1] * len(parts) if weights is None else list(weights)
    whole = Moments(parts[0].dimensions, parts[0].mean.device)
    for part, repeats in zip(parts, times, strict=True):
        whole._absorb(part.count * repeats, part.mean.to(whole._mean.device), part.products.to(whole._mean) * repeats)
    return whole


def require_finite(features: torch.Tensor, dimensions: int) -> None:
    """Check features (N, D); NaN or infinity is an error."""
    assert features.ndim == 2, features.shape
    assert features.shape[1] == dimensions, (features.shape, dimensions)
    finite = features.isfinite().all(1)
    if not finite.all():
        broken = int((~finite).sum())
        raise AlitokError(
            f"The features of {broken} of {len(finite)} images are not finite; check these images and the "
            "weights of the feature network."
        )


def require_same_dimensions(first: int, second: int) -> None:
    """Check that two sets have the same number of features."""
    if first != second:
        raise AlitokError(
            f"Statistics of {first} features cannot be compared with statistics of {second}; take both from the same "
            "layer of the same network."
        )


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Hash integers (N,) to uint64; the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
