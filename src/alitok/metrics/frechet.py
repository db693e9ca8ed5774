"""The Frechet distance of two sets of images, each taken as a Gaussian in a network's features, and how sure it is.

Enter: means (D,) and covariances (D, D). Leaves: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), a number >= 0; with
Inception's features it is called FID. Shapes: D features, R rank of a covariance, K blocks.

Sources: Heusel et al. 2017; the resamples: Efron and Tibshirani 1993; the bias: Chong and Forsyth 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.moments import BlockMoments, Gaussian, Moments, merged, require_same_dimensions


class Interval(NamedTuple):
    """An estimate and how far another set of as many images would be expected to move it.

    Attributes:
        value: the estimate from all images.
        low: lower end of the interval, at least 0.
        high: upper end of the interval.
        deviation: standard deviation of the estimate.
    """

    value: float
    low: float
    high: float
    deviation: float


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Frechet distance of two Gaussians.

    S1 S2 has the eigenvalues of F S2 F^T for any F of F^T F = S1, and those of a symmetric matrix are found stably; no
    root of a product is formed. Those below zero by rounding are taken as zero. It is finite for any covariance, also
    of fewer images than features.

    Args:
        a: mean (D,) and covariance (D, D).
        b: the same, of the same D.

    Returns:
        A number >= 0, in squared units of the features; 0 only for equal Gaussians, up to rounding of about 1e-7 of
        the traces.

    Raises:
        AlitokError: their dimensions differ, or they hold NaN or infinity.
    """
    a, b = _checked(a), _checked(b)
    require_same_dimensions(len(a.mean), len(b.mean))
    return _distance(a, b, _factor(a.covariance))


def frechet_bias(samples: BlockMoments, reference: Gaussian) -> float:
    """How much larger the distance of these samples is expected to be than that of endlessly many.

    Few samples are too far away on average, by about c / N for N of them: a covariance of few images is too narrow in
    most directions. Half of the samples have twice that bias, so the mean distance of two halves is larger than that of
    all by about c / N itself. For N below the number of features the bias grows more slowly than c / N, and what this
    gives is a lower bound.

    Args:
        samples: K blocks, of which every other one makes a half.
        reference: mean (D,) and covariance (D, D), taken as exact.

    Returns:
        The expected bias, in the units of `frechet_distance`; below zero only by chance, where it is near zero.

    Raises:
        AlitokError: the dimensions differ, a number is NaN or infinite, or a half holds fewer than two images.

    Source: Chong and Forsyth 2020, who extrapolate along 1 / N.
    """
    halves = [merged(samples.blocks[first::2]) for first in (0, 1)]
    if min(half.count for half in halves) < 2:
        raise AlitokError("The bias needs at least two images in each half of the blocks; give more images.")
    reference, everything = _checked(reference), _checked(samples.total().gaussian())
    require_same_dimensions(len(reference.mean), len(everything.mean))
    factor = _factor(reference.covariance)
    distances = [_distance(reference, _checked(half.gaussian()), factor) for half in halves]
    return extrapolated(distances, _distance(reference, everything, factor), [half.count for half in halves])


def extrapolated(halves: Sequence[float], whole: float, counts: Sequence[int]) -> float:
    """How much of a distance is the bias of few images, where that falls as one over their number.

    Args:
        halves: the distances of both halves of the images.
        whole: that of all.
        counts: images of each half.
    """
    excess = sum(halves) / 2 - whole
    doubled = sum(sum(counts) / count for count in counts) / 2  # 2 for equal halves
    return excess / (doubled - 1)


def frechet_interval(
    samples: BlockMoments,
    reference: Gaussian,
    *,
    resamples: int = 40,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The distance of samples from a reference, with a bootstrap interval over blocks of the samples.

    Each resample draws as many blocks as there are, with replacement, and merges their moments. A resample holds fewer
    different images than the samples do, so its distance is larger on average; therefore only the spread of the
    resamples is used, as a normal interval around the distance of all samples. The reference is taken as exact, and the
    bias that any Frechet distance of few images has stays.

    Args:
        samples: K blocks of at least two images in all; the deviation itself is known to about 1 / sqrt(2 K).
        reference: mean (D,) and covariance (D, D).
        resamples: how many. Computed where the blocks are; each takes the eigenvalues of a (D, D) matrix, about 3 s for
            2048 features on a CPU core, and each block two products of such matrices before.
        level: share of such intervals that hold the number they estimate, in (0, 1).
        seed: of the draws.

    Raises:
        AlitokError: the dimensions differ, a number is NaN or infinite, or blocks hold fewer than two images.
    """
    blocks = [block for block in samples.blocks if block.count > 0]
    if len(blocks) < 2 or min(block.count for block in blocks) < 2:
        raise AlitokError("An interval needs at least two images in each block; give more images or fewer blocks.")
    reference, everything = _checked(reference), _checked(merged(blocks).gaussian())
    require_same_dimensions(len(reference.mean), len(everything.mean))
    factor = _factor(reference.covariance)
    value = _distance(reference, everything, factor)
    place = blocks[0].mean.device
    reference, factor = Gaussian(*(part.to(place) for part in reference)), factor.to(place)
    seen = [_project(block, factor) for block in blocks]
    return bootstrap(
        value,
        len(blocks),
        lambda times: _resampled(blocks, seen, times, reference),
        resamples=resamples,
        level=level,
        seed=seed,
    )


def bootstrap(
    value: float,
    blocks: int,
    resampled: Callable[[list[int]], float],
    *,
    resamples: int,
    level: float,
    seed: int,
) -> Interval:
    """A normal interval around an estimate, as wide as the spread of its resamples; it ends at 0.

    Args:
        value: the estimate.
        blocks: K, of which each resample draws as many with replacement.
        resampled: the estimate when each block counts so many times.
        resamples: how many.
        level: share of such intervals that hold the number they estimate, in (0, 1).
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    estimates = [
        resampled(np.bincount(random.integers(blocks, size=blocks), minlength=blocks).tolist())
        for _ in range(resamples)
    ]
    deviation = float(np.std(estimates, ddof=1))
    reach = NormalDist().inv_cdf((1 + level) / 2) * deviation
    return Interval(value, max(0.0, value - reach), value + reach, deviation)


def _distance(a: Gaussian, b: Gaussian, factor: torch.Tensor) -> float:
    """The distance, with the `_factor` of the first covariance."""
    shared = _trace_of_root(factor @ b.covariance @ factor.T)
    apart = (a.mean - b.mean).square().sum()
    return max(0.0, float(apart + a.covariance.trace() + b.covariance.trace()) - 2 * shared)


def _resampled(blocks: list[Moments], seen: list[Moments], times: list[int], reference: Gaussian) -> float:
    """The distance when each block counts so many times; `seen` are the blocks through the reference's factor."""
    counts = torch.tensor([block.count * repeats for block, repeats in zip(blocks, times, strict=True)])
    means = torch.stack([block.mean for block in blocks])
    counts = counts.to(means)
    mean = (counts[:, None] * means).sum(0) / counts.sum()
    spread = sum(repeats * float(block.products.trace()) for block, repeats in zip(blocks, times, strict=True))
    spread += float((counts * (means - mean).square().sum(1)).sum())
    shared = _trace_of_root(merged(seen, times).covariance())
    apart = (mean - reference.mean).square().sum()
    return float(apart + reference.covariance.trace()) + spread / float(counts.sum() - 1) - 2 * shared


def _project(block: Moments, factor: torch.Tensor) -> Moments:
    """The moments of `factor @ x` (R,) where the block has those of x (D,)."""
    return Moments.of(block.count, factor @ block.mean, factor @ block.products @ factor.T)


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    """F (R, D) of F^T F = covariance, by Cholesky's method with pivots, which ends where only rounding is left.

    Much faster than the eigenvectors, above all where images are fewer than features.

    Raises:
        AlitokError: SciPy is missing.
    """
    try:
        from scipy.linalg.lapack import dpstrf
    except ImportError:
        raise AlitokError("The Frechet distance needs SciPy; install it with pip install 'alitok[eval]'.") from None
    upper, pivots, rank, _ = dpstrf(covariance.numpy())
    factor = np.zeros((rank, len(covariance)))
    factor[:, pivots - 1] = np.triu(upper)[:rank]
    return torch.from_numpy(factor)


def _trace_of_root(matrix: torch.Tensor) -> float:
    """Trace of the root of a symmetric matrix (R, R) without negative eigenvalues but by rounding; 0 for R = 0."""
    if len(matrix) == 0:
        return 0.0
    symmetric = (matrix + matrix.T) / 2
    return math.fsum(torch.linalg.eigvalsh(symmetric).clamp(min=0).sqrt().tolist())


def _checked(gaussian: Gaussian) -> Gaussian:
    """The same on the CPU in float64.

    Raises:
        AlitokError: NaN or infinity.
    """
    mean, covariance = (part.to("cpu", torch.float64) for part in gaussian)
    assert covariance.shape == (len(mean), len(mean)), (mean.shape, covariance.shape)
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise AlitokError("Statistics hold numbers that are not finite; make them anew.")
    return Gaussian(mean, covariance)
