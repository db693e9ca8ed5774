"""Bits an image at equal fidelity: two tokenizers compared where their reconstructions are equally near the images.

A tokenizer that loses more of the image has codes that are easier to guess, so bits of two tokenizers say nothing as
long as their PSNR differs. Each is therefore trained with codebooks of several sizes, which gives a curve of bits over
PSNR, and the curves are subtracted where both exist.

Enter: `Curve`s, one of each training seed. Leaves: a `Comparison`, the second's bits minus the first's with their
confidence. Shapes: N validation images, the same ones in the same order everywhere; P points of a curve; R resamples.

Sources: the mean over the common range is Bjøntegaard's (2001) delta rate, with straight lines instead of a cubic and
bits instead of their logarithm; resamples: Efron and Tibshirani 1993.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alitok.core.errors import AlitokError
from alitok.metrics.student import Bounds, t_interval

_TOGETHER = 256  # resamples in memory at a time
_MOST_LOST = 0.05  # share of resamples in which the curves may part, beyond which their interval would be of a part


@dataclass(frozen=True, eq=False)
class Point:
    """One tokenizer and the generator over its codes.

    Attributes:
        codebook_size: V.
        psnr: dB, the mean over images.
        bits: an image, the mean over images.
        image_psnr, image_bits: (N,) of each image; N = 0 where they are not known.

    Raises:
        AlitokError: a mean that is not that of its images.
    """

    codebook_size: int
    psnr: float
    bits: float
    image_psnr: np.ndarray
    image_bits: np.ndarray

    def __post_init__(self) -> None:
        """Refuse images of something else, which would give an interval beside its estimate."""
        assert self.image_psnr.shape == self.image_bits.shape, (self.image_psnr.shape, self.image_bits.shape)
        for name, mean, values in (("PSNR", self.psnr, self.image_psnr), ("bits", self.bits, self.image_bits)):
            if self.finite and len(values) and not math.isclose(values.mean(), mean, rel_tol=1e-3):
                raise AlitokError(
                    f"The mean {name} of a codebook of {self.codebook_size} is {mean:.6g}, but that of its images is "
                    f"{values.mean():.6g}; measure it anew."
                )

    @property
    def finite(self) -> bool:
        """Whether it can be placed; a training that diverged cannot."""
        return math.isfinite(self.psnr) and math.isfinite(self.bits)


@dataclass(frozen=True, eq=False)
class Curve:
    """What one tokenizer, trained with one seed, reaches with codebooks of several sizes.

    The curve goes through the points that no other one beats, in straight lines. A point is left out when another has
    at least its PSNR for at most its bits: it happens that a larger codebook takes more bits and yet reconstructs
    worse, because a training went badly or only part of the codebook is in use. A line through such a point would turn
    back and give two values of bits for one PSNR; an error instead would drop just those seeds that went badly, and
    with them the chance that a comparison should show. Whoever uses the tokenizer would take the smaller codebook, and
    so does the curve. The price: the best of several noisy points is picked, which favours an arm that has more points
    or more noise. Arms that are compared should have the same sizes, and `left_out` is to be told with the result.

    Attributes:
        points: in any order; those that are not finite are left out too.
    """

    points: tuple[Point, ...]

    @functools.cached_property
    def frontier(self) -> tuple[Point, ...]:
        """The points that the curve goes through, by rising PSNR and bits."""
        best: list[Point] = []
        for point in sorted((p for p in self.points if p.finite), key=lambda p: (-p.psnr, p.bits)):
            if not best or point.bits < best[-1].bits:
                best.append(point)
        return tuple(reversed(best))

    @property
    def left_out(self) -> tuple[Point, ...]:
        """The other points."""
        return tuple(point for point in self.points if point not in self.frontier)

    def spared_beyond(self, other: Curve) -> float:
        """Bits that this curve takes less than the other's highest point, at its first point of more PSNR than that.

        NaN where there is none. Above zero, it would take fewer bits at equal PSNR too, if the other's curve rises on.
        """
        if not other.frontier:
            return math.nan
        highest = other.frontier[-1]
        return next((highest.bits - point.bits for point in self.frontier if point.psnr > highest.psnr), math.nan)


class Matched(NamedTuple):
    """Two curves of one seed where both exist; all but the reason are NaN where that is nowhere.

    Attributes:
        low, high: dB, the range that both have; equal where one of them is a single point.
        difference: the second's bits an image minus the first's, the mean over that range.
        relative: the same as a share of the first's mean bits over it.
        middle: the difference at the middle of the range, in bits an image.
        reason: why there is none; empty otherwise.
    """

    low: float
    high: float
    difference: float
    relative: float
    middle: float
    reason: str = ""


class Estimate(NamedTuple):
    """A difference over all seeds.

    Attributes:
        value: the mean over the seeds.
        trainings: Student's interval over the seeds; None with a single one.
        images: from resamples of the validation images; None where they are not known.
    """

    value: float
    trainings: Bounds | None
    images: Bounds | None


@dataclass(frozen=True)
class Comparison:
    """Two tokenizers at equal fidelity, over all seeds that both have.

    Attributes:
        by_seed: each seed by itself; those without a common range are told in its reason and are in no mean.
        difference, relative, middle: as in `Matched`; None where no seed has a common range.
        level: of the intervals.
        reason: why there is no result; empty otherwise.
    """

    by_seed: Mapping[int, Matched]
    difference: Estimate | None
    relative: Estimate | None
    middle: Estimate | None
    level: float
    reason: str = ""

    @property
    def used(self) -> tuple[Matched, ...]:
        """The seeds that have a common range."""
        return tuple(matched for matched in self.by_seed.values() if not matched.reason)

    @property
    def bounds(self) -> Bounds | None:
        """THE interval of the difference: over the trainings, or, with one seed, over the images."""
        if self.difference is None:
            return None
        return self.difference.trainings or self.difference.images

    def confidence(self) -> str:
        """What the interval is, and what it does not cover, in words."""
        if self.difference is None:
            return self.reason
        if self.difference.trainings is not None:
            return (
                f"The {self._per_cent()} interval over trainings is Student's, of one difference for each seed: it "
                "covers the chance of training, taken as normal, but neither which images were held out nor which "
                "codebooks were tried."
            )
        if self.difference.images is not None:
            return (
                f"The {self._per_cent()} interval over images is from resamples of the held-out ones, the same in "
                "both arms: it covers which these are, but not that another training comes out differently, which is "
                "often more."
            )
        return "There is one pair of trainings and nothing is known of single images, so there is no interval."

    def _per_cent(self) -> str:
        return f"{100 * self.level:g} %"


def bits_at_matched_psnr(first: Curve, second: Curve) -> Matched:
    """The second curve's bits minus the first's where both exist; nothing is extrapolated."""
    low, high, difference, relative, middle = _compare(*_means(first), *_means(second))[:, 0].tolist()
    if math.isnan(difference):
        reason = f"no PSNR in common: the first has {reach([first])}, the second {reach([second])}"
        return Matched(math.nan, math.nan, math.nan, math.nan, math.nan, reason)
    return Matched(low, high, difference, relative, middle)


def reach(curves: Iterable[Curve]) -> str:
    """The range of PSNR of some curves, for people."""
    psnrs = [point.psnr for curve in curves for point in curve.frontier]
    if not psnrs:
        return "no finite PSNR"
    low, high = f"{min(psnrs):.2f}", f"{max(psnrs):.2f}"
    return f"{low} dB" if low == high else f"{low} to {high} dB"


def compare_at_matched_psnr(
    first: Mapping[int, Curve],
    second: Mapping[int, Curve],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two tokenizers over all seeds that both were trained with.

    Args:
        first: its curve by the seed of training.
        second: likewise.
        level: share of such intervals that hold what they estimate, in (0, 1).
        resamples: of the images, drawn with replacement; each is the same for all points of both curves, which share
            most of the chance, and the points that a curve goes through are chosen anew in each.
        seed: of these draws.

    Raises:
        AlitokError: points that were measured on different numbers of images.
    """
    assert 0 < level < 1, level
    by_seed = {
        number: bits_at_matched_psnr(curve, second[number]) for number, curve in first.items() if number in second
    }
    used = [number for number, matched in by_seed.items() if not matched.reason]
    if not used:
        ours, theirs = ([curves[number] for number in by_seed] for curves in (first, second))
        apart = f"no PSNR in common in any seed: the first has {reach(ours)}, the second {reach(theirs)}"
        return Comparison(by_seed, None, None, None, level, apart if by_seed else "no seed in common")
    drawn = _resampled([(first[number], second[number]) for number in used], resamples, seed)
    difference, relative, middle = (
        _estimate([getattr(by_seed[number], name) for number in used], drawn[place], level)
        for place, name in enumerate(("difference", "relative", "middle"))
    )
    return Comparison(by_seed, difference, relative, middle, level)


def _estimate(values: list[float], drawn: np.ndarray, level: float) -> Estimate:
    """Of one value a seed, and their mean in each resample (R,)."""
    return Estimate(math.fsum(values) / len(values), t_interval(values, level), _ends(drawn, level))


def _means(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """PSNR and bits of all finite points, (1, P) each."""
    points = [point for point in curve.points if point.finite]
    return np.array([[point.psnr for point in points]]), np.array([[point.bits for point in points]])


def _resampled(pairs: Sequence[tuple[Curve, Curve]], resamples: int, seed: int) -> np.ndarray:
    """Difference, relative and middle of R resamples of the images, the mean over pairs of curves: (3, R).

    R = 0 where images are not known or too few. NaN where a pair has no common range.

    Raises:
        AlitokError: different numbers of images.
    """
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
    random, drawn = np.random.default_rng(seed), []
    for start in range(0, resamples, _TOGETHER):
        some = min(_TOGETHER, resamples - start)
        shares = random.multinomial(images, np.full(images, 1 / images), some) / images
        found = [_compare(*(shares @ each.T for each in (*one, *other)))[2:] for one, other in values]
        drawn.append(np.mean(found, axis=0))
    return np.concatenate(drawn, axis=1)


def _ends(drawn: np.ndarray, level: float) -> Bounds | None:
    """Percentiles of resamples (R,); None where there are none, or the curves part in too many."""
    known = drawn[np.isfinite(drawn)]
    if len(drawn) == 0 or len(known) < (1 - _MOST_LOST) * len(drawn):
        return None
    return Bounds(*np.quantile(known, [(1 - level) / 2, (1 + level) / 2]).tolist())


def _compare(psnr: np.ndarray, bits: np.ndarray, other_psnr: np.ndarray, other_bits: np.ndarray) -> np.ndarray:
    """R times two curves: low, high, difference, relative and middle of `Matched`, (5, R).

    `psnr` and `bits` are (R, P) of the first's points, the others (R, Q) of the second's.
    """
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
    """R times the points that a curve goes through, by rising PSNR, (R, P) each; `Curve` says which.

    One that is left out becomes a copy of the next, which makes a piece of no width.
    """
    order = np.lexsort((-bits, psnr))  # of equal PSNR, the one of fewest bits is last
    psnr, bits = np.take_along_axis(psnr, order, 1), np.take_along_axis(bits, order, 1)
    for place in range(psnr.shape[1] - 2, -1, -1):
        beaten = bits[:, place] >= bits[:, place + 1]
        psnr[beaten, place], bits[beaten, place] = psnr[beaten, place + 1], bits[beaten, place + 1]
    return psnr, bits


def _at(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """R broken lines through (x, y), (R, P) each with rising x, at places (R,) that they reach: (R,)."""
    found = y[:, 0].copy()
    for left, right, start, end in zip(x.T, x.T[1:], y.T, y.T[1:], strict=False):
        inside = (places >= left) & (right > left)
        share = np.clip((places - left) / np.where(inside, right - left, 1), 0, 1)
        found = np.where(inside, start + share * (end - start), found)
    return found


def _mean(x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The mean of R such lines from low to high, (R,) each; where these are equal, the value there."""
    area = np.zeros(len(x))
    for left, right in zip(x.T, x.T[1:], strict=False):
        start, end = np.clip(low, left, right), np.clip(high, left, right)
        area += (end - start) * _at(x, y, (start + end) / 2)  # exact, as the piece is straight
    width = high - low
    return np.where(width > 0, area / np.where(width > 0, width, 1), _at(x, y, low))
