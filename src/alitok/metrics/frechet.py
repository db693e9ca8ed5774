"""The Frechet distance of two sets of images, with its bootstrap interval and its small-sample bias.

|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), for the mean and covariance of each set's features; with Inception's
features it is FID. Shapes: D features, R rank of a covariance, K blocks.

`frechet_interval` and `frechet_bias` take the reference as exact. `paired_interval` and `paired_bias` are for
reconstructions: the sampling noise of the images is in both sets and mostly cancels (perfect reconstructions have
distance 0 for any number of images), so both sets are resampled together.

Sources: Heusel et al. 2017; resampling: Efron and Tibshirani 1993; bias: Chong and Forsyth 2020.
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

_Pair = tuple[Moments, Moments]  # a block of reconstructions, and the same block of originals
_TWO_A_HALF = "The bias needs at least two images in each half of the blocks; use more images."
_TWO_A_BLOCK = "An interval needs at least two images in each block; use more images or fewer blocks."


class Interval(NamedTuple):
    """An estimate from all images, with a confidence interval for new sets of as many images."""

    value: float
    low: float  # at least 0
    high: float
    std: float  # of the estimate


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Frechet distance of two Gaussians, >= 0, also for fewer images than features.

    S1 S2 has the eigenvalues of F S2 F^T for any F with F^T F = S1. Those of a symmetric matrix are stable, so no
    square root of a product is needed. Equal Gaussians give 0 up to about 1e-7 of the traces.

    Raises:
        AlitokError: different D, or NaN or infinity.
    """
    a, b = _checked(a), _checked(b)
    require_same_dimensions(len(a.mean), len(b.mean))
    return _distance(a, b, _factor(a.covariance))


def frechet_bias(samples: BlockMoments, reference: Gaussian) -> float:
    """How much larger this distance is expected to be than that of infinitely many samples.

    N samples are too far away by about c / N, because the covariance of few images is too narrow in most directions.
    Half of them have twice that bias, so the mean distance of two halves (every other block) exceeds that of all by
    about c / N. With fewer samples than features this is a lower bound; near zero it can be negative by chance.

    Raises:
        AlitokError: different D, NaN or infinity, or a half of fewer than two images.
    """
    halves = [merged(samples.blocks[first::2]) for first in (0, 1)]
    counts = [half.count for half in halves]
    _require_two(counts, _TWO_A_HALF)
    reference, everything = _checked(reference), _checked(samples.total().gaussian())
    require_same_dimensions(len(reference.mean), len(everything.mean))
    factor = _factor(reference.covariance)
    distances = [_distance(reference, _checked(half.gaussian()), factor) for half in halves]
    return _extrapolated(distances, _distance(reference, everything, factor), counts)


def paired_bias(made: BlockMoments, originals: BlockMoments) -> float:
    """`frechet_bias` of reconstructions and their originals, which are in the same blocks."""
    pairs = _pairs(made, originals)
    halves = [pairs[first::2] for first in (0, 1)]
    counts = [sum(original.count for _, original in half) for half in halves]
    _require_two(counts, _TWO_A_HALF)
    distances = [_paired_distance(half) for half in halves]
    return _extrapolated(distances, _paired_distance(pairs), counts)


def frechet_interval(
    samples: BlockMoments, reference: Gaussian, *, resamples: int = 40, level: float = 0.95, seed: int = 0
) -> Interval:
    """The distance with a bootstrap interval of coverage `level` in (0, 1) over blocks of at least two samples.

    A resample holds fewer distinct images than the samples do, so its distance is larger on average; only the spread of
    the resamples is used, around the distance of all samples. The small-sample bias stays in, and the std itself is
    known to about 1 / sqrt(2 K). A resample takes about 3 s for 2048 features on a CPU core.

    Raises:
        AlitokError: different D, NaN or infinity, or blocks of fewer than two images.
    """
    blocks = [block for block in samples.blocks if block.count > 0]
    _require_two([block.count for block in blocks], _TWO_A_BLOCK)
    reference, everything = _checked(reference), _checked(merged(blocks).gaussian())
    require_same_dimensions(len(reference.mean), len(everything.mean))
    factor = _factor(reference.covariance)
    value = _distance(reference, everything, factor)
    place = blocks[0].mean.device
    reference, factor = Gaussian(*(part.to(place) for part in reference)), factor.to(place)
    projected = [Moments.of(b.count, factor @ b.mean, factor @ b.products @ factor.T) for b in blocks]  # of factor @ x
    return _bootstrap(
        value, len(blocks), lambda times: _resampled(blocks, projected, times, reference), resamples, level, seed
    )


def paired_interval(
    made: BlockMoments, originals: BlockMoments, *, resamples: int = 25, level: float = 0.95, seed: int = 0
) -> Interval:
    """`frechet_interval` of reconstructions and their originals, resampled together.

    Each resample is a full distance: about 8 s for 2048 features on a CPU core.
    """
    pairs = [pair for pair in _pairs(made, originals) if pair[1].count]
    _require_two([original.count for _, original in pairs], _TWO_A_BLOCK)
    return _bootstrap(
        _paired_distance(pairs), len(pairs), lambda times: _paired_distance(pairs, times), resamples, level, seed
    )


def _require_two(counts: Sequence[int], needed: str) -> None:
    if len(counts) < 2 or min(counts) < 2:
        raise AlitokError(needed)


def _extrapolated(halves: Sequence[float], whole: float, counts: Sequence[int]) -> float:
    """The bias of `whole`, from the distances of two halves of these image counts, if it falls as 1 / N."""
    excess = sum(halves) / 2 - whole
    doubled = sum(sum(counts) / count for count in counts) / 2  # 2 for equal halves
    return excess / (doubled - 1)


def _bootstrap(
    value: float, blocks: int, resampled: Callable[[list[int]], float], resamples: int, level: float, seed: int
) -> Interval:
    """A normal interval around `value`, as wide as the spread of its resamples and cut at 0."""
    random = np.random.default_rng(seed)
    picks = (random.integers(blocks, size=blocks) for _ in range(resamples))
    estimates = [resampled(np.bincount(picked, minlength=blocks).tolist()) for picked in picks]
    std = float(np.std(estimates, ddof=1))
    reach = NormalDist().inv_cdf((1 + level) / 2) * std
    return Interval(value, max(0.0, value - reach), value + reach, std)


def _distance(a: Gaussian, b: Gaussian, factor: torch.Tensor) -> float:
    shared = _trace_of_root(factor @ b.covariance @ factor.T)
    apart = (a.mean - b.mean).square().sum()
    return max(0.0, float(apart + a.covariance.trace() + b.covariance.trace()) - 2 * shared)


def _resampled(blocks: list[Moments], projected: list[Moments], times: list[int], reference: Gaussian) -> float:
    counts = torch.tensor([block.count * repeats for block, repeats in zip(blocks, times, strict=True)])
    means = torch.stack([block.mean for block in blocks])
    counts = counts.to(means)
    mean = (counts[:, None] * means).sum(0) / counts.sum()
    spread = sum(repeats * float(block.products.trace()) for block, repeats in zip(blocks, times, strict=True))
    spread += float((counts * (means - mean).square().sum(1)).sum())
    shared = _trace_of_root(merged(projected, times).covariance())
    apart = (mean - reference.mean).square().sum()
    return float(apart + reference.covariance.trace()) + spread / float(counts.sum() - 1) - 2 * shared


def _pairs(made: BlockMoments, originals: BlockMoments) -> list[_Pair]:
    pairs = list(zip(made.blocks, originals.blocks, strict=True))
    assert all(one.count == other.count for one, other in pairs), "blocks of different images"
    return pairs


def _paired_distance(pairs: Sequence[_Pair], times: Sequence[int] | None = None) -> float:
    made, originals = (merged(blocks, times).gaussian() for blocks in zip(*pairs, strict=True))
    return frechet_distance(originals, made)


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    """F (R, D) with F^T F = covariance, by pivoted Cholesky: much faster than eigenvectors, and stops at rounding."""
    try:
        from scipy.linalg.lapack import dpstrf
    except ImportError:
        raise AlitokError("The Frechet distance needs SciPy; install it with pip install 'alitok[eval]'.") from None
    upper, pivots, rank, _ = dpstrf(covariance.numpy())
    factor = np.zeros((rank, len(covariance)))
    factor[:, pivots - 1] = np.triu(upper)[:rank]
    return torch.from_numpy(factor)


def _trace_of_root(matrix: torch.Tensor) -> float:
    """Trace of the square root of a symmetric matrix (R, R) that is positive semidefinite up to rounding."""
    if len(matrix) == 0:
        return 0.0
    symmetric = (matrix + matrix.T) / 2
    return math.fsum(torch.linalg.eigvalsh(symmetric).clamp(min=0).sqrt().tolist())


def _checked(gaussian: Gaussian) -> Gaussian:
    """The same on the CPU in float64; NaN or infinity is an error."""
    mean, covariance = (part.to("cpu", torch.float64) for part in gaussian)
    assert covariance.shape == (len(mean), len(mean)), (mean.shape, covariance.shape)
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise AlitokError("These statistics are not finite numbers; compute them again.")
    return Gaussian(mean, covariance)
