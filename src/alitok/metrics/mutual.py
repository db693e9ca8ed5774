"""Mutual information between the codes at all pairs of positions.

The plug-in estimate is biased upwards, because codes coincide by chance: with V_i and V_j codes in use, by about
(V_i - 1)(V_j - 1) / (2 N ln 2) bits for large N (Miller 1955). The same estimate with the images of one position
shuffled measures that bias and is subtracted. This is right for independent codes, and too much for dependent ones,
which take fewer combinations. Both errors vanish for N far above V_i * V_j; for N below, most of the information may
be missed, which `too_few_images` reports. Information that only several codes together carry is not measured.
Shapes: N images, T positions, M pairs of positions, V codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK_VALUES = 2**22  # numbers of one block: 32 MB, several times over
_MAX_CHANCE = 0.5  # fraction of the plug-in estimate that chance may make up


@dataclass(frozen=True, eq=False)
class MutualInformation:
    """Information in bits between codes at positions i and j; `exact` if all pairs were measured.

    `bits` (T, T) is symmetric float64, plug-in minus `chance` (T, T) for shuffled images, so that it may be slightly
    negative; NaN on the diagonal and for pairs that were left out. `entropy` (T,) is the plug-in entropy of each
    position.
    """

    bits: np.ndarray
    chance: np.ndarray
    entropy: np.ndarray
    images: int
    exact: bool

    @property
    def normalized(self) -> np.ndarray:
        """(T, T) `bits` over the entropy of code i; NaN where that is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found = self.bits / self.entropy[:, None]
        found[self.entropy == 0] = np.nan
        return found

    @property
    def too_few_images(self) -> bool:
        """Whether chance makes up more than half of the plug-in estimate over all pairs."""
        chance, plug_in = np.nansum(self.chance), np.nansum(self.chance + self.bits)
        return bool(chance > _MAX_CHANCE * plug_in)

    def mean_bits(self) -> float:
        """Over the measured pairs; NaN without any."""
        return _mean(self.bits)

    def mean_bits_at(self, lag: int, first: int = 0) -> float:
        """Between codes and those `lag` positions before them, both from position `first` on; NaN without any."""
        return _mean(np.diagonal(self.bits[first:, first:], -lag))


def _mean(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")


def mutual_information(
    codes: np.ndarray,
    *,
    seed: int = 0,
    shuffles: int = 4,
    lags: Sequence[int] = (1,),
    max_pairs: int = 20_000,
    block_values: int = _BLOCK_VALUES,
) -> MutualInformation:
    """Measure all pairs of positions of codes (N >= 2, T), or a random sample of `max_pairs` of them.

    Pairs at the distances `lags` are always measured, chance `shuffles` >= 1 times; `block_values` (numbers in memory
    at a time) changes nothing.
    """
    count, length = codes.shape
    assert count >= 2
    assert shuffles >= 1
    random = np.random.default_rng(seed % 2**64)
    compact = np.stack([np.unique(column, return_inverse=True)[1] for column in codes.T])  # (T, N), small numbers
    entropy = _entropies(compact)
    orders = [random.permutation(count) for _ in range(shuffles)]
    first, second, exact = _pairs(length, lags, max_pairs, random)
    bits, chance = (np.full((length, length), np.nan) for _ in range(2))
    step = max(1, block_values // count)
    for start in range(0, len(first), step):
        i, j = first[start : start + step], second[start : start + step]
        sums = entropy[i] + entropy[j]
        plug_in = sums - _joint(compact[i], compact[j])
        by_chance = np.mean([sums - _joint(compact[i], compact[j][:, order]) for order in orders], axis=0)
        for rows, columns in ((i, j), (j, i)):
            bits[rows, columns], chance[rows, columns] = plug_in - by_chance, by_chance
    return MutualInformation(bits, chance, entropy, count, exact)


def _pairs(
    length: int, lags: Sequence[int], limit: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs i < j, and whether they are all."""
    first, second = np.triu_indices(length, 1)
    if len(first) <= limit:
        return first, second, True
    near = np.isin(second - first, lags)
    sampled = random.choice(np.flatnonzero(~near), max(0, limit - int(near.sum())), replace=False)
    taken = np.sort(np.concatenate([np.flatnonzero(near), sampled]))
    return first[taken], second[taken], False


def _joint(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Joint entropies (M,) of codes (M, N) and (M, N)."""
    return _entropies(one * (other.max(1, keepdims=True) + 1) + other)


def _entropies(values: np.ndarray) -> np.ndarray:
    """Plug-in entropies (M,), in bits, of M samples (M, N) of integers."""
    samples, count = values.shape
    ordered = np.sort(values, axis=1)
    begins = np.ones(values.shape, bool)  # of each run of equal numbers
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    runs = np.diff(np.append(starts, values.size))
    sums = np.bincount(starts // count, weights=runs * np.log2(runs), minlength=samples)
    return np.log2(count) - sums / count
