"""Precision, recall, density and coverage: whether samples lie where real images are, and vice versa.

A set's manifold is the union of balls around its features (N, D), each as large as the distance to the k-th nearest
other feature. A feature on the surface of a ball is inside, for all four.

Sources: Kynkäänniemi et al. 2019 for precision and recall with k = 3, as in ADM's evaluator; Naeem et al. 2020 for
density and coverage with k = 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from alitok.core.device import in_double
from alitok.core.errors import AlitokError
from alitok.metrics.moments import require_finite, require_same_dimensions

_MAX_VALUES = 2**24  # numbers of one block in float64: 128 MB
_EXACT = 53  # bits of integers that float64 represents


class Manifold(NamedTuple):
    """Overlap of the manifolds of two sets of images."""

    precision: float  # fraction of samples inside the real manifold
    recall: float  # fraction of real images inside the samples' manifold
    density: float  # mean number of real balls around a sample, over k; 1 for equal distributions, can be larger
    coverage: float  # fraction of the real balls that contain a sample


def manifold_scores(
    real: torch.Tensor,
    samples: torch.Tensor,
    *,
    neighbors: int = 3,
    density_neighbors: int = 5,
    device: torch.device | None = None,
    max_values: int = _MAX_VALUES,
) -> Manifold:
    """Precision and recall (k = `neighbors`), density and coverage of (M, D) samples against (N, D) real features.

    Distances are exact: features are rounded to multiples of a step, about 2^-20 of the largest range for 2048
    features, so that |x|^2 + |y|^2 - 2 x.y is a sum of integers that float64 represents. Copies have distance 0, and
    neither device nor block size changes a result. (ADM's evaluator rounds to float16, which moves images near the
    surface of a ball.) `device` None = that of `real`; the CPU instead of `mps`, which has no float64.

    Raises:
        AlitokError: too few images, features that differ in number, NaN or infinity.
    """
    assert neighbors >= 1, neighbors
    assert density_neighbors >= 1, density_neighbors
    _require(real, samples, neighbors, density_neighbors)
    lattice = _Lattice(real, samples, in_double(device or real.device), max_values)
    radii = lattice.radii(real, (neighbors, density_neighbors))
    sample_radii = lattice.radii(samples, (neighbors,))[0]
    inside_real = torch.zeros(len(samples), dtype=torch.bool)
    inside_samples = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    balls = 0
    for rows, columns, table in lattice.tables(real, samples):
        inside_real[columns] |= (table <= radii[0][rows, None]).any(0).cpu()
        inside_samples[rows] |= (table <= sample_radii[None, columns]).any(1).cpu()
        within = table <= radii[1][rows, None]
        covered[rows] |= within.any(1).cpu()
        balls += int(within.sum())
    return Manifold(
        precision=float(inside_real.double().mean()),
        recall=float(inside_samples.double().mean()),
        density=balls / (density_neighbors * len(samples)),
        coverage=float(covered.double().mean()),
    )


class _Lattice:
    """Features as whole multiples of a step, and their exact squared distances in its square.

    With q bits for a coordinate, |x|^2 + |y|^2 - 2 x.y of D coordinates needs at most 2 q + log2 D + 2 bits.
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor, device: torch.device, max_values: int) -> None:
        low = torch.minimum(first.amin(0).cpu(), second.amin(0).cpu()).double()
        high = torch.maximum(first.amax(0).cpu(), second.amax(0).cpu()).double()
        bits = (_EXACT - 2 - math.ceil(math.log2(first.shape[1]))) // 2
        half = float((high - low).max()) / 2 / (2**bits - 1)
        self._step = 2.0 ** math.ceil(math.log2(half)) if half > 0 else 1.0
        self._centre = ((low + high) / 2).to(device)
        self._device = device
        self._block = max(1, min(math.isqrt(max_values), max_values // first.shape[1]))

    def radii(self, features: torch.Tensor, neighbors: tuple[int, ...]) -> list[torch.Tensor]:
        """The squared distance (N,) of each feature's k-th nearest other one, for each k, on the device."""
        found = torch.empty(len(features), max(neighbors) + 1, dtype=torch.float64, device=self._device)
        found.fill_(math.inf)
        for rows, _, table in self.tables(features, features):
            nearest = torch.cat([found[rows], table], 1)
            found[rows] = nearest.topk(found.shape[1], largest=False, sorted=True).values
        return [found[:, k] for k in neighbors]  # the nearest of all is the feature itself, or a copy of it, at 0

    def tables(self, left: torch.Tensor, right: torch.Tensor) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Rows, columns and squared distances (n, m) of blocks, until all of (N, M) were given."""
        for first in range(0, len(left), self._block):
            rows = slice(first, min(first + self._block, len(left)))
            some, norms = self._whole(left[rows])
            for start in range(0, len(right), self._block):
                columns = slice(start, min(start + self._block, len(right)))
                others, other_norms = self._whole(right[columns])
                yield rows, columns, torch.addmm(norms[:, None] + other_norms, some, others.T, alpha=-2)

    def _whole(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole numbers (n, D) and their squared norms (n,), float64."""
        whole = ((features.to(self._device).double() - self._centre) / self._step).round()
        return whole, whole.square().sum(1)


def _require(real: torch.Tensor, samples: torch.Tensor, neighbors: int, density_neighbors: int) -> None:
    require_same_dimensions(real.shape[1], samples.shape[1])
    needs = (("real images", real, max(neighbors, density_neighbors)), ("samples", samples, neighbors))
    for name, features, most in needs:
        if len(features) <= most:
            raise AlitokError(
                f"{len(features)} {name} are too few for {most} nearest neighbors; use at least {most + 1}."
            )
        require_finite(features, real.shape[1])
