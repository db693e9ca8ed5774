"""Which place moves which: what influence (patches move codes) and reach (codes move patches) have in common.

Enter: pairs (an image, a place of it that is disturbed) and how much every response changed. Leave: the mean change
of each response by each place, and what share of all change comes from before, from the same cell and from behind.
Shapes: N images, S places, R responses, M pairs, B pairs of a batch; G grid side, P = G * G patches, K prefix,
T = K + P codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from alitok.core.errors import AlitokError

Group = Literal["all", "grid", "prefix"]
OWN, PAST, FUTURE = range(3)
MOST_EXACT = 100  # places up to which all of them are disturbed in every image
SAMPLED = 16  # images in which each place is disturbed where there are more places
ROUNDING = 1e-5  # changes below this, where 1 is a large one, are float32's own and count as none
_RESAMPLED = 1000  # bootstrap draws of an interval


@dataclass(frozen=True)
class Raster:
    """Where the codes of an image stand: K prefix codes, then those of G x G patches, row by row."""

    grid: int
    prefix: int

    @property
    def patches(self) -> int:
        """P."""
        return self.grid**2

    @property
    def length(self) -> int:
        """T."""
        return self.prefix + self.patches

    def cells(self) -> np.ndarray:
        """(T,) the patch that each code stands for.

        A grid code stands for its own; prefix code i for patch i of the first row, where a prefix longer than a row
        repeats the first patch: the same rule as that of the causal encoder.
        """
        prefix = (np.arange(self.prefix) - max(self.prefix - self.grid, 0)).clip(min=0)
        return np.concatenate([prefix, np.arange(self.patches)])

    def directions(self) -> np.ndarray:
        """(T, P) where each patch lies: `PAST` before the code's cell in raster order, `OWN`, or `FUTURE` behind it."""
        patches, cells = np.arange(self.patches), self.cells()[:, None]
        return np.where(patches < cells, PAST, np.where(patches > cells, FUTURE, OWN))

    def directions_in_sequence(self) -> np.ndarray:
        """(T, P) the same in the order in which codes are drawn: prefix codes come before all patches."""
        directions = self.directions()
        early = directions[: self.prefix]
        early[early == PAST] = FUTURE
        return directions


class Share(NamedTuple):
    """A part of all change.

    Attributes:
        value: in [0, 1]; NaN where nothing changed at all.
        low, high: ends of its 95 % interval, from a bootstrap over images.
        even: what it would be if every code moved, or were moved by, all patches equally.
    """

    value: float
    low: float
    high: float
    even: float


class Shares(NamedTuple):
    """How all change is divided; the three values add up to 1."""

    own: Share
    past: Share
    future: Share


@dataclass(frozen=True, eq=False)
class Dependency:
    """Mean changes over images.

    Attributes:
        mean: one row for each code and a column for each patch (T, P), or the other way round (P, T), float64.
        error: standard error of each, of the same shape.
        shares: of all codes, of the grid codes, and of the prefix codes where there are any.
    """

    mean: np.ndarray
    error: np.ndarray
    shares: dict[Group, Shares]


@dataclass(frozen=True, eq=False)
class Pairs:
    """What is disturbed.

    Attributes:
        images: (M,) ascending.
        places: (M,) which place of the image.
        donors: (M,) the image, never the same one, that what stands there instead is taken from.
        images_in_all: N.
        places_in_all: S.
        exact: whether every place is disturbed in every image.
    """

    images: np.ndarray
    places: np.ndarray
    donors: np.ndarray
    images_in_all: int
    places_in_all: int
    exact: bool

    def __len__(self) -> int:
        """M."""
        return len(self.images)

    def per_place(self) -> np.ndarray:
        """(S,) images in which each place is disturbed."""
        return np.bincount(self.places, minlength=self.places_in_all)


def choose_pairs(images: int, places: int, per_place: int | None, seed: int) -> Pairs:
    """Every place in every image, or each place in some images of its own; by the seed, with one donor for each.

    Those of fewer images per place are some of those of more.

    Args:
        images: N, at least 2.
        places: S.
        per_place: images in which each place is disturbed, at least 2; None takes all for up to `MOST_EXACT`
            places, and `SAMPLED` for more.
        seed: of images and donors.

    Raises:
        AlitokError: N or `per_place` is less than 2.
    """
    if images < 2:
        raise AlitokError(
            f"What stands in an image is replaced by what stands in another, so at least two images are needed, "
            f"not {images}; give more."
        )
    if per_place is not None and per_place < 2:
        raise AlitokError(f"Each place must be disturbed in at least 2 images, not {per_place}.")
    wanted = min(images, per_place or (images if places <= MOST_EXACT else SAMPLED))
    random = np.random.default_rng(seed % 2**64)
    donors = (np.arange(images)[:, None] + random.integers(1, images, (images, places))) % images
    ranks = random.random((images, places)).argsort(axis=0).argsort(axis=0)
    chosen, places_of = np.nonzero(ranks < wanted)
    return Pairs(chosen, places_of, donors[chosen, places_of], images, places, exact=wanted == images)


class PairBatch(NamedTuple):
    """Some pairs and the undisturbed images that they are compared with, which go through a model in one call.

    So whatever another size of the call would round otherwise is no change.

    Attributes:
        rows: (B,) which pairs.
        bases: (b,) the images that they disturb.
        base_of: (B,) which of `bases` each pair disturbs.
    """

    rows: np.ndarray
    bases: np.ndarray
    base_of: np.ndarray


def pair_batches(pairs: Pairs, rows: np.ndarray, batch_size: int) -> Iterator[PairBatch]:
    """Pairs and their images, at most `batch_size` (at least 2) together.

    Args:
        pairs: all there are.
        rows: (m,) those that are wanted, ascending.
        batch_size: of a model's call.
    """
    start, held, last = 0, 0, -1
    for end, image in enumerate(pairs.images[rows].tolist()):
        cost = 1 + (image != last)
        if held + cost > batch_size:
            yield _batch(pairs, rows[start:end])
            start, held, cost = end, 0, 2
        held, last = held + cost, image
    if start < len(rows):
        yield _batch(pairs, rows[start:])


def _batch(pairs: Pairs, rows: np.ndarray) -> PairBatch:
    return PairBatch(rows, *np.unique(pairs.images[rows], return_inverse=True))


class Tally:
    """Sums changes up, by place and response and, for the intervals, by image.

    Args:
        pairs: all that are disturbed.
        directions: (S, R) where each response lies, seen from its place: `OWN`, `PAST` or `FUTURE`.
        of_prefix: (S, R) whether a prefix code is the place or the response.
    """

    def __init__(self, pairs: Pairs, directions: np.ndarray, of_prefix: np.ndarray) -> None:
        self._pairs, self._count = pairs, pairs.per_place()
        self._kinds = torch.from_numpy(directions + 3 * of_prefix)
        self._sums, self._squares = (torch.zeros(self._kinds.shape, dtype=torch.float64) for _ in range(2))
        self._by_image = torch.zeros(pairs.images_in_all, 6, dtype=torch.float64)

    def add(self, rows: np.ndarray, changes: torch.Tensor) -> None:
        """Count the changes (B, R) of pairs (B,); pairs that are never added changed nothing."""
        changes = changes.to("cpu", torch.float64)
        places, images = (torch.from_numpy(each[rows]) for each in (self._pairs.places, self._pairs.images))
        self._sums.index_add_(0, places, changes)
        self._squares.index_add_(0, places, changes.square())
        by_kind = torch.zeros(len(rows), 6, dtype=torch.float64).scatter_add_(1, self._kinds[places], changes)
        weights = torch.from_numpy(1 / self._count)[places]
        self._by_image.index_add_(0, images, by_kind * weights[:, None])

    def dependency(self, *, transposed: bool, seed: int) -> Dependency:
        """What was counted, as (S, R), or (R, S) where it is `transposed`; the seed is that of the intervals."""
        count = self._count[:, None]
        mean, square = self._sums.numpy() / count, self._squares.numpy() / count
        error = np.sqrt((square - mean**2).clip(min=0) / (count - 1))
        if transposed:
            mean, error = mean.T, error.T
        return Dependency(mean, error, self._shares(seed))

    def _shares(self, seed: int) -> dict[Group, Shares]:
        even = np.bincount(self._kinds.numpy().ravel(), minlength=6).astype(float)
        groups: dict[Group, list[int]] = {"grid": [0]}
        if even[3:].any():
            groups = {"all": [0, 1], "grid": [0], "prefix": [1]}
        found = {
            name: _divided(self._by_image.numpy().reshape(-1, 2, 3)[:, rows].sum(1), even.reshape(2, 3)[rows], seed)
            for name, rows in groups.items()
        }
        return {"all": found["grid"], **found}


def _divided(by_image: np.ndarray, even: np.ndarray, seed: int) -> Shares:
    """Shares of sums (N, 3); every bootstrap draw takes as many images with replacement."""
    count = len(by_image)
    drawn = np.random.default_rng(seed % 2**64).multinomial(count, np.full(count, 1 / count), _RESAMPLED)
    with np.errstate(invalid="ignore"):
        values = by_image.sum(0) / by_image.sum()
        sums = drawn @ by_image
        resampled = sums / sums.sum(1, keepdims=True)
    resampled = resampled[np.isfinite(resampled).all(1)]
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0) if len(resampled) else np.full((2, 3), np.nan)
    expected = even.sum(0) / even.sum()
    parts = zip(values.tolist(), low.tolist(), high.tolist(), expected.tolist(), strict=True)
    return Shares(*(Share(*part) for part in parts))
