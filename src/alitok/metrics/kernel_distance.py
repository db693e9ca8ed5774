"""Kernel distance of two sets of images: like the Frechet distance, but unbiased for few images.

Enter: features (N, D) of samples and (M, D) of the reference. Leave: mean and standard deviation over random subsets of
the unbiased squared maximum mean discrepancy for the kernel (x.y / D + 1)^3; with Inception's features it is KID.

Source: Bińkowski et al. 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from alitok.core.device import in_double
from alitok.core.errors import AlitokError
from alitok.metrics.moments import require_finite, require_same_dimensions


class KernelDistance(NamedTuple):
    """Kernel distance.

    Attributes:
        mean: over the subsets; may be a little below 0 for sets that are alike.
        std: standard deviation over the subsets.
    """

    mean: float
    std: float


def kernel_distance(
    samples: torch.Tensor,
    reference: torch.Tensor,
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
    device: torch.device | None = None,
) -> KernelDistance:
    """Mean and deviation over subsets drawn without replacement, in float64.

    Args:
        samples: (N, D) float, N at least `size`.
        reference: (M, D) float, M at least `size`.
        subsets: how many are drawn.
        size: images of a subset, from each set; at least 2.
        seed: of the draws; the same seed gives the same subsets.
        device: where it is computed, that of `samples` if None; the CPU instead of `mps`, which has no float64.

    Raises:
        AlitokError: a set is smaller than `size`, the features differ in number, or they hold NaN or infinity.
    """
    assert subsets >= 1, subsets
    assert size >= 2, size
    _require(samples, reference, size)
    place = in_double(device or samples.device)
    random = np.random.default_rng(seed)
    found = np.empty(subsets)
    for number in range(subsets):
        rows = [torch.from_numpy(random.choice(len(some), size, replace=False)) for some in (samples, reference)]
        x, y = (
            some[chosen_rows.to(some.device)].to(place).double()
            for some, chosen_rows in zip((samples, reference), rows, strict=True)
        )
        found[number] = float(squared_mmd(x, y))
    return KernelDistance(float(found.mean()), float(found.std()))


def squared_mmd(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Unbiased squared maximum mean discrepancy of x (n, D) and y (m, D), n and m at least 2: a scalar."""
    n, m = len(x), len(y)
    within_x, within_y, between = kernel(x, x), kernel(y, y), kernel(x, y)
    return (
        (within_x.sum() - within_x.trace()) / (n * (n - 1))
        + (within_y.sum() - within_y.trace()) / (m * (m - 1))
        - 2 * between.mean()
    )


def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(x.y / D + 1)^3 for all pairs of x (n, D) and y (m, D): (n, m)."""
    return (x @ y.T / x.shape[1] + 1).pow(3)


def _require(samples: torch.Tensor, reference: torch.Tensor, size: int) -> None:
    """Check what is compared.

    Raises:
        AlitokError: see `kernel_distance`.
    """
    require_same_dimensions(samples.shape[1], reference.shape[1])
    for name, some in (("samples", samples), ("reference images", reference)):
        if len(some) < size:
            raise AlitokError(
                f"Subsets of {size} images cannot be drawn from {len(some)} {name}; give more, or draw smaller ones."
            )
        require_finite(some, samples.shape[1])
