"""Kernel distance of two sets of images: like the Frechet distance, but unbiased for few images.

The unbiased squared MMD with the kernel (x.y / D + 1)^3, averaged over random subsets; with Inception features it is
KID. Source: Bińkowski et al. 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from alitok.core.device import in_double
from alitok.core.errors import AlitokError
from alitok.metrics.moments import require_finite, require_same_dimensions


class KernelDistance(NamedTuple):
    """Mean and standard deviation over the subsets; the mean may be slightly negative for similar sets."""

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
    """Kernel distance of (N, D) and (M, D) over random subsets of `size` >= 2, drawn without replacement, in float64.

    `device` None = that of `samples`; the CPU instead of `mps`, which has no float64.

    Raises:
        AlitokError: a set is smaller than `size`, or the features differ in number or are not finite.
    """
    assert subsets >= 1, subsets
    assert size >= 2, size
    require_same_dimensions(samples.shape[1], reference.shape[1])
    for name, some in (("samples", samples), ("reference images", reference)):
        if len(some) < size:
            raise AlitokError(
                f"Subsets of {size} images cannot be drawn from {len(some)} {name}; use more, or smaller subsets."
            )
        require_finite(some, samples.shape[1])
    place = in_double(device or samples.device)
    random = np.random.default_rng(seed)
    found = np.empty(subsets)
    for number in range(subsets):
        picks = ((some, random.choice(len(some), size, replace=False)) for some in (samples, reference))
        x, y = (some[torch.from_numpy(rows).to(some.device)].to(place).double() for some, rows in picks)
        found[number] = float(squared_mmd(x, y))
    return KernelDistance(float(found.mean()), float(found.std()))


def squared_mmd(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Unbiased squared MMD of x (n, D) and y (m, D), n and m at least 2: a scalar."""
    n, m = len(x), len(y)
    within_x, within_y, between = kernel(x, x), kernel(y, y), kernel(x, y)
    return (
        (within_x.sum() - within_x.trace()) / (n * (n - 1))
        + (within_y.sum() - within_y.trace()) / (m * (m - 1))
        - 2 * between.mean()
    )


def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(x.y / D + 1)^3 of x (n, D) and y (m, D): (n, m)."""
    return (x @ y.T / x.shape[1] + 1).pow(3)
