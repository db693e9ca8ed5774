"""Bits per image at equal PSNR: two tokenizers compared where their reconstructions are equally good.

A tokenizer that loses more of the image has codes that are easier to predict, so bits compare only at equal PSNR. Each
tokenizer is therefore trained with codebooks of several sizes, which gives a rate-distortion (RD) curve of bits over
PSNR, and the curves are subtracted where both exist.

Sources: the mean over the common range is Bjøntegaard's (2001) delta rate, with straight lines instead of a cubic and
bits instead of their logarithm; resamples: Efron and Tibshirani 1993.
Shapes: N validation images, the same ones in the same order everywhere; P points of a curve; R resamples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alitok.core.errors import AlitokError

_BLOCK = 256  # resamples in memory at a time
_MAX_LOST = 0.05  # fraction of resamples without a common range, beyond which their interval would be biased


class Bounds(NamedTuple):
    """A confidence interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is significant."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class RDPoint:
    """Mean PSNR (dB) and bits per image of one tokenizer and the generator over its codes.

    `image_psnr` and `image_bits` (N,) are those of each image; N = 0 if unknown.

    Raises:
        AlitokError: a mean that is not that of its images.
    """

    codebook_size: int
    psnr: float
    bits: float
    image_psnr: np.ndarray
    image_bits: np.ndarray

    def __post_init__(self) -> None:
        """Reject means of other images, whose interval would not contain the estimate."""
        assert self.image_psnr.shape == self.image_bits.shape, (self.image_psnr.shape, self.image_bits.shape)
        for name, mean, values in (("PSNR", self.psnr, self.image_psnr), ("bits", self.bits, self.image_bits)):
            if self.finite and len(values) and not math.isclose(values.mean(), mean, rel_tol=1e-3):
                raise AlitokError(
                    f"The mean {name} of codebook size {self.codebook_size} is {mean:.6g}, but that of its images is "
                    f"{values.mean():.6g}; measure it again."
                )

    @property
    def finite(self) -> bool:
        """False if a training diverged."""
        return math.isfinite(self.psnr) and math.isfinite(self.bits)


@dataclass(frozen=True, eq=False)
class RDCurve:
    """Bits over PSNR of one tokenizer, trained with one seed and codebooks of several sizes.

    The curve joins the finite points on the Pareto frontier by straight lines. A larger codebook may take more bits and
    yet reconstruct worse, because a training went badly or only part of the codebook is in use. A line through such a
    point would give two values of bits for one PSNR, and dropping the seed would drop just the variance that a
    comparison should show. The price: an arm with more points or more noise is favored, so compared arms should have
    the same sizes and `dominated` should be reported.
    """

    points: tuple[RDPoint, ...]

    @functools.cached_property
    def frontier(self) -> tuple[RDPoint, ...]:
        """Points that no other one dominates, by rising PSNR and bits."""
        best: list[RDPoint] = []
        for point in sorted((p for p in self.points if p.finite), key=lambda p: (-p.psnr, p.bits)):
            if not best or point.bits < best[-1].bits:
                best.append(point)
        return tuple(reversed(best))

    @property
    def dominated(self) -> tuple[RDPoint, ...]:
        """The other points."""
        return tuple(point for point in self.points if point not in self.frontier)

    def bits_saved_beyond(self, other: RDCurve) -> float:
        """Bits saved against the other's highest PSNR by this curve's first point above it; NaN without such a point.

        If positive, it would also take fewer bits at equal PSNR, as curves rise.
        """
        if not other.frontier:
            return math.nan
        highest = other.frontier[-1]
        return next((highest.bits - point.bits for point in self.frontier if point.psnr > highest.psnr), math.nan)


class RateDelta(NamedTuple):
    """The difference of two curves of one seed where both exist; all NaN without a common range of PSNR.

    `low` to `high` is that range in dB, equal if a curve is a single point. `difference` is the second's bits per image
    minus the first's, the mean over it; `relative` the same as a fraction of the first's mean bits over it; `middle`
    the difference at the middle of the range, in bits per image.
    """

    low: float
    high: float
    difference: float
    relative: float
    middle: float


class Estimate(NamedTuple):
    """A difference over all seeds: `value` is their mean.

    Attributes:
        trainings: Student's interval over the seeds, for the variance of training alone; None with a single seed.
        images: bootstrap over the validation images, without the (often larger) variance of training; None if unknown.
    """

    value: float
    trainings: Bounds | None
    images: Bounds | None


@dataclass(frozen=True)
class Comparison:
    """Two tokenizers at equal PSNR: means over the seeds with a common range, as in `RateDelta`; None without any."""

    by_seed: Mapping[int, RateDelta]
    difference: Estimate | None = None
    relative: Estimate | None = None
    middle: Estimate | None = None

    @property
    def used(self) -> tuple[RateDelta, ...]:
        """The seeds that have a common range."""
        return tuple(delta for delta in self.by_seed.values() if not math.isnan(delta.difference))

    @property
    def bounds(self) -> Bounds | None:
        """The interval of the difference: over trainings or, with one seed, over images."""
        if self.difference is None:
            return None
        return self.difference.trainings or self.difference.images


def t_interval(values: Sequence[float], level: float = 0.95) -> Bounds | None:
    """Interval for the mean of independent normal, finite values; None for fewer than two; `level` in (0, 1)."""
    assert 0 < level < 1, level
    count = len(values)
    if count < 2:
        return None
    from scipy.stats import t  # slow to import, and needed for several seeds only

    mean = math.fsum(values) / count
    half = float(t.ppf((1 + level) / 2, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Bounds(mean - half, mean + half)


def rate_delta(first: RDCurve, second: RDCurve) -> RateDelta:
    """The second curve's bits minus the first's where both exist; nothing is extrapolated."""
    return RateDelta(*_compare(*_means(first), *_means(second))[:, 0].tolist())


def psnr_range(curves: Iterable[RDCurve]) -> Bounds | None:
    """Lowest and highest PSNR on the frontiers of some curves; None without a finite one."""
    psnrs = [point.psnr for curve in curves for point in curve.frontier]
    return Bounds(min(psnrs), max(psnrs)) if psnrs else None


def compare_at_matched_psnr(
    first: Mapping[int, RDCurve],
    second: Mapping[int, RDCurve],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two tokenizers, each a curve by training seed, over all seeds that both were trained with.

    Intervals have coverage `level` in (0, 1). Each resample of the images is the same for all points of both curves,
    whose images are equally hard, and the frontiers are recomputed in it.

    Raises:
        AlitokError: points that were measured on different numbers of images.
    """
    assert 0 < level < 1, level
    by_seed = {number: rate_delta(curve, second[number]) for number, curve in first.items() if number in second}
    used = [number for number, delta in by_seed.items() if not math.isnan(delta.difference)]
    if not used:
        return Comparison(by_seed)
    resampled = _resampled([(first[number], second[number]) for number in used], resamples, seed)
    estimates = []
    for row, name in zip(resampled, ("difference", "relative", "middle"), strict=True):
        values = [getattr(by_seed[number], name) for number in used]
        mean = math.fsum(values) / len(values)
        estimates.append(Estimate(mean, t_interval(values, level), _percentiles(row, level)))
    return Comparison(by_seed, *estimates)


def _means(curve: RDCurve) -> tuple[np.ndarray, np.ndarray]:
    """PSNR and bits of all finite points, (1, P) each."""
    points = [point for point in curve.points if point.finite]
    return np.array([[point.psnr for point in points]]), np.array([[point.bits for point in points]])


def _resampled(pairs: Sequence[tuple[RDCurve, RDCurve]], resamples: int, seed: int) -> np.ndarray:
    """Means over pairs of `difference`, `relative` and `middle` in resamples, (3, R); R = 0 without enough images."""
    used = [[[point for point in curve.points if point.finite] for curve in pair] for pair in pairs]
    counts = {len(point.image_psnr) for pair in used for points in pair for point in points}
    if len(counts - {0}) > 1:
        raise AlitokError(
            f"Points of {' and '.join(map(str, sorted(counts - {0})))} validation images cannot be compared image by "
            "image; measure all on the same."
        )
    images = min(counts)
    if images < 2:
        return np.empty((3, 0))
    values = [
        [(np.stack([p.image_psnr for p in points]), np.stack([p.image_bits for p in points])) for points in pair]
        for pair in used
    ]
    random, found = np.random.default_rng(seed), []
    for start in range(0, resamples, _BLOCK):
        weights = random.multinomial(images, np.full(images, 1 / images), min(_BLOCK, resamples - start)) / images
        deltas = [_compare(*(weights @ each.T for each in (*one, *other)))[2:] for one, other in values]
        found.append(np.mean(deltas, axis=0))
    return np.concatenate(found, axis=1)


def _percentiles(values: np.ndarray, level: float) -> Bounds | None:
    """Interval from resamples (R,); None without any, or if too many have no common range."""
    known = values[np.isfinite(values)]
    if len(values) == 0 or len(known) < (1 - _MAX_LOST) * len(values):
        return None
    return Bounds(*np.quantile(known, [(1 - level) / 2, (1 + level) / 2]).tolist())


def _compare(psnr: np.ndarray, bits: np.ndarray, other_psnr: np.ndarray, other_bits: np.ndarray) -> np.ndarray:
    """The fields of `RateDelta` (5, R) for R pairs of curves, of points (R, P) and (R, Q)."""
    if psnr.shape[1] == 0 or other_psnr.shape[1] == 0:
        return np.full((5, len(psnr)), math.nan)
    first, second = _frontiers(psnr, bits), _frontiers(other_psnr, other_bits)
    low = np.maximum(first[0][:, 0], second[0][:, 0])
    high = np.minimum(first[0][:, -1], second[0][:, -1])
    mean, other_mean = (_mean(*curve, low, high) for curve in (first, second))
    middle = (low + high) / 2
    apart = _at(*second, middle) - _at(*first, middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.stack([low, high, other_mean - mean, (other_mean - mean) / mean, apart])
    found[:, low > high] = math.nan
    return found


def _frontiers(psnr: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R times `RDCurve.frontier`, (R, P) each; a dominated point becomes a copy of the next: a piece of no width."""
    order = np.lexsort((-bits, psnr))  # of equal PSNR, the one of fewest bits is last
    psnr, bits = np.take_along_axis(psnr, order, 1), np.take_along_axis(bits, order, 1)
    for place in range(psnr.shape[1] - 2, -1, -1):
        dominated = bits[:, place] >= bits[:, place + 1]
        psnr[dominated, place], bits[dominated, place] = psnr[dominated, place + 1], bits[dominated, place + 1]
    return psnr, bits


def _at(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """R piecewise linear curves through (x, y), (R, P) each with rising x, at places (R,) within them: (R,)."""
    found = y[:, 0].copy()
    for left, right, start, end in zip(x.T, x.T[1:], y.T, y.T[1:], strict=False):
        inside = (places >= left) & (right > left)
        fraction = np.clip((places - left) / np.where(inside, right - left, 1), 0, 1)
        found = np.where(inside, start + fraction * (end - start), found)
    return found


def _mean(x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The mean of R such curves from low to high, (R,) each; if these are equal, the value there."""
    area = np.zeros(len(x))
    for left, right in zip(x.T, x.T[1:], strict=False):
        start, end = np.clip(low, left, right), np.clip(high, left, right)
        area += (end - start) * _at(x, y, (start + end) / 2)  # exact, as the piece is straight
    width = high - low
    return np.where(width > 0, area / np.where(width > 0, width, 1), _at(x, y, low))
