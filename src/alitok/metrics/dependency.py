"""What influence (patches change codes) and reach (codes change patches) share: perturbations and their statistics.

Shapes: N images, S positions that are perturbed, R responses, M perturbations, B of a batch; G grid side,
P = G * G patches, K prefix length, T = K + P codes.
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
MAX_EXACT = 100  # positions up to which all of them are perturbed in every image
SAMPLED = 16  # images in which each position is perturbed if there are more positions
ROUNDING = 1e-5  # smaller changes, on a scale of 1, are float32 rounding and count as none
_RESAMPLES = 1000  # of a bootstrap interval


@dataclass(frozen=True)
class Raster:
    """Layout of an image's codes: K prefix codes, then those of G x G patches, row by row."""

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

        Prefix code i stands for patch i of the first row, where a prefix longer than a row repeats the first patch, as
        in the causal encoder.
        """
        prefix = (np.arange(self.prefix) - max(self.prefix - self.grid, 0)).clip(min=0)
        return np.concatenate([prefix, np.arange(self.patches)])

    def directions(self) -> np.ndarray:
        """(T, P) where each patch lies relative to the code's cell in raster order: `PAST`, `OWN` or `FUTURE`."""
        patches, cells = np.arange(self.patches), self.cells()[:, None]
        return np.where(patches < cells, PAST, np.where(patches > cells, FUTURE, OWN))

    def directions_in_sequence(self) -> np.ndarray:
        """(T, P) the same in the order in which codes are generated: prefix codes come before all patches."""
        directions = self.directions()
        early = directions[: self.prefix]
        early[early == PAST] = FUTURE
        return directions


class Fraction(NamedTuple):
    """A fraction of all change in [0, 1], NaN if nothing changed, with a 95 % bootstrap interval over images.

    `uniform` is its value if every code changed, or were changed by, all patches equally.
    """

    value: float
    low: float
    high: float
    uniform: float


class Fractions(NamedTuple):
    """All change split by direction; the three values add up to 1."""

    own: Fraction
    past: Fraction
    future: Fraction


@dataclass(frozen=True, eq=False)
class Dependency:
    """Mean changes over images, (codes, patches) or (patches, codes) float64, and the standard error of each.

    `fractions` are those of all codes, of the grid codes, and of the prefix codes if there are any.
    """

    mean: np.ndarray
    error: np.ndarray
    fractions: dict[Group, Fractions]


@dataclass(frozen=True, eq=False)
class Perturbations:
    """At `positions` (M,) in [0, S) of `images` (M,), ascending, the content is replaced by that of `donors` (M,).

    `exact` if every position is perturbed in every image.
    """

    images: np.ndarray
    positions: np.ndarray
    donors: np.ndarray
    num_images: int
    num_positions: int
    exact: bool

    def __len__(self) -> int:
        return len(self.images)

    def per_position(self) -> np.ndarray:
        """(S,) images in which each position is perturbed."""
        return np.bincount(self.positions, minlength=self.num_positions)


def choose_perturbations(images: int, positions: int, per_position: int | None, seed: int) -> Perturbations:
    """Perturb each position in all of N images or in a random subset of `per_position`, with one donor for each.

    A smaller `per_position` gives a subset of a larger one; None takes all for up to `MAX_EXACT` positions, and
    `SAMPLED` for more.

    Raises:
        AlitokError: N or `per_position` is less than 2.
    """
    if images < 2:
        raise AlitokError(
            f"Parts of an image are replaced by those of another, so at least two images are needed, not {images}."
        )
    if per_position is not None and per_position < 2:
        raise AlitokError(f"Each position must be perturbed in at least 2 images, not {per_position}.")
    wanted = min(images, per_position or (images if positions <= MAX_EXACT else SAMPLED))
    random = np.random.default_rng(seed % 2**64)
    donors = (np.arange(images)[:, None] + random.integers(1, images, (images, positions))) % images
    ranks = random.random((images, positions)).argsort(axis=0).argsort(axis=0)
    chosen, where = np.nonzero(ranks < wanted)
    return Perturbations(chosen, where, donors[chosen, where], images, positions, exact=wanted == images)


class PerturbationBatch(NamedTuple):
    """B perturbations (`rows`) and the b unperturbed images (`bases`) that they are compared with by `base_of` (B,).

    Both go through a model in one call, so that rounding that depends on the batch size is not mistaken for a change.
    """

    rows: np.ndarray
    bases: np.ndarray
    base_of: np.ndarray


def perturbation_batches(
    perturbations: Perturbations, rows: np.ndarray, batch_size: int
) -> Iterator[PerturbationBatch]:
    """Some perturbations (m,), ascending, with their images: at most `batch_size` (at least 2) together."""
    starts: list[int] = []
    held, last = 0, -1
    for row, image in enumerate(perturbations.images[rows].tolist()):
        cost = 1 + (image != last)
        if held + cost > batch_size:
            starts.append(row)
            held, cost = 0, 2
        held, last = held + cost, image
    for some in np.split(rows, starts) if len(rows) else ():
        yield PerturbationBatch(some, *np.unique(perturbations.images[some], return_inverse=True))


class Tally:
    """Sums of changes by position and response and, for the intervals, by image.

    `directions` (S, R) of each response relative to its position are `OWN`, `PAST` or `FUTURE`; `of_prefix` (S, R) says
    whether the position or the response is a prefix code.
    """

    def __init__(self, perturbations: Perturbations, directions: np.ndarray, of_prefix: np.ndarray) -> None:
        self._perturbations, self._count = perturbations, perturbations.per_position()
        self._kinds = torch.from_numpy(directions + 3 * of_prefix)
        self._sums, self._squares = (torch.zeros(self._kinds.shape, dtype=torch.float64) for _ in range(2))
        self._by_image = torch.zeros(perturbations.num_images, 6, dtype=torch.float64)

    def add(self, rows: np.ndarray, changes: torch.Tensor) -> None:
        """Count the changes (B, R) of perturbations (B,); those never added changed nothing."""
        changes = changes.to("cpu", torch.float64)
        all_ = self._perturbations
        positions, images = (torch.from_numpy(each[rows]) for each in (all_.positions, all_.images))
        self._sums.index_add_(0, positions, changes)
        self._squares.index_add_(0, positions, changes.square())
        by_kind = torch.zeros(len(rows), 6, dtype=torch.float64).scatter_add_(1, self._kinds[positions], changes)
        weights = torch.from_numpy(1 / self._count)[positions]
        self._by_image.index_add_(0, images, by_kind * weights[:, None])

    def dependency(self, seed: int) -> Dependency:
        """The means as (R, S), responses by positions; `seed` is that of the intervals."""
        count = self._count[:, None]
        mean, square = self._sums.numpy() / count, self._squares.numpy() / count
        error = np.sqrt((square - mean**2).clip(min=0) / (count - 1))
        return Dependency(mean.T, error.T, self._fractions(seed))

    def _fractions(self, seed: int) -> dict[Group, Fractions]:
        uniform = np.bincount(self._kinds.numpy().ravel(), minlength=6).astype(float)
        groups: dict[Group, list[int]] = {"grid": [0]}
        if uniform[3:].any():
            groups = {"all": [0, 1], "grid": [0], "prefix": [1]}
        found = {
            name: _split(self._by_image.numpy().reshape(-1, 2, 3)[:, rows].sum(1), uniform.reshape(2, 3)[rows], seed)
            for name, rows in groups.items()
        }
        return {"all": found["grid"], **found}


def _split(by_image: np.ndarray, uniform: np.ndarray, seed: int) -> Fractions:
    """Fractions of sums (N, 3), with a bootstrap over images."""
    count = len(by_image)
    weights = np.random.default_rng(seed % 2**64).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    with np.errstate(invalid="ignore"):
        values = by_image.sum(0) / by_image.sum()
        sums = weights @ by_image
        resampled = sums / sums.sum(1, keepdims=True)
    resampled = resampled[np.isfinite(resampled).all(1)]
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0) if len(resampled) else np.full((2, 3), np.nan)
    expected = uniform.sum(0) / uniform.sum()
    parts = zip(values.tolist(), low.tolist(), high.tolist(), expected.tolist(), strict=True)
    return Fractions(*(Fraction(*part) for part in parts))
