"""What a probe has found, as numbers by name, as JSON and as arrays.

Shapes: T codes of an image, P = G * G patches, K prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.core.files import finite
from alitok.metrics.dependency import Dependency, Raster
from alitok.metrics.influence import Influence
from alitok.metrics.mutual import Mutual
from alitok.metrics.reach import Reach


@dataclass(frozen=True, eq=False)
class Losses:
    """How well a generator guesses validation codes.

    Attributes:
        by: which generator, in words.
        nats: (T,) mean cross-entropy at each position.
        right: (T,) share guessed right.
        prefix: K.
        train_accuracy: of the codes that a generator trained for this probe has learnt; None for another generator.
        images: whose codes it was asked about.
    """

    by: str
    nats: np.ndarray
    right: np.ndarray
    prefix: int
    train_accuracy: float | None
    images: int

    @property
    def bits(self) -> np.ndarray:
        """(T,) the same in bits."""
        return self.nats / math.log(2)


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """All that the files of a probe are made of.

    Attributes:
        title: what was probed.
        data: for people.
        command: as it was typed.
        influence: of patches on codes.
        reach: of codes into the image, by decoder.
        losses: of a generator, by position.
        mutual: between positions.
        seconds: by part.
        warnings: what a reader must know before the numbers.
        protocol: all that the numbers depend on.
    """

    title: str
    data: str
    command: str
    influence: Influence
    reach: Mapping[str, Reach]
    losses: Losses
    mutual: Mutual
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    protocol: Mapping[str, Any]

    @property
    def raster(self) -> Raster:
        """Where the codes stand."""
        return self.influence.raster

    @property
    def summary(self) -> str:
        """What was done, in two sentences."""
        raster, influence = self.raster, self.influence
        behind = f" behind {raster.prefix} prefix codes" if raster.prefix else ""
        if influence.exact:
            how = f"Every patch of {influence.images:,} validation images was replaced, one at a time"
        else:
            each = influence.pairs // raster.patches
            how = f"Each patch was replaced in {each:,} of {influence.images:,} validation images, drawn by the seed"
        codes = f"{raster.grid} x {raster.grid} codes{behind}"
        return f"An image is {codes}; the images are {self.data}. {how}: {influence.pairs:,} disturbed images."

    def kinds(self) -> dict[str, Dependency]:
        """The maps of influence that were taken, by the first part of their numbers' names."""
        found = {
            "influence": self.influence.codes,
            "feature_influence": self.influence.features,
            "probability_influence": self.influence.probabilities,
        }
        return {name: value for name, value in found.items() if value is not None}

    def numbers(self) -> dict[str, float]:
        """All single numbers by name; NaN where nothing moved."""
        found = _shares("influence", self.influence.codes)
        for name, kind in self.kinds().items():
            if name != "influence":
                found[f"{name}_future"] = kind.shares["all"].future.value
        for decoder, reach in self.reach.items():
            found |= _shares(f"{decoder}_reach", reach.pixels)
        losses, mutual = self.losses, self.mutual
        found["accuracy"] = float(losses.right.mean())
        found["bits_per_image"] = float(losses.bits.sum())
        found["grid_bits_per_image"] = float(losses.bits[losses.prefix :].sum())
        if losses.train_accuracy is not None:
            found["train_accuracy"] = losses.train_accuracy
        found["mutual_bits"] = mutual.mean_bits()
        found["mutual_bits_before"] = mutual.mean_bits_at(1)
        found["mutual_bits_above"] = mutual.mean_bits_at(self.raster.grid, losses.prefix)
        return found

    def to_json(self) -> dict[str, Any]:
        """All but the maps; numbers that are none become null."""
        influence, mutual = self.influence, self.mutual
        parts: dict[str, Any] = {
            "kind": "probe",
            "numbers": self.numbers(),
            "layout": {"grid": self.raster.grid, "prefix": self.raster.prefix, "codes": self.raster.length},
            "influence": {
                "images": influence.images,
                "pairs": influence.pairs,
                "exact": influence.exact,
                "shares": {name: _divided(kind) for name, kind in self.kinds().items()},
            },
            "reach": {
                name: {
                    "images": reach.images,
                    "pairs": reach.pairs,
                    "exact": reach.exact,
                    "shares": _divided(reach.pixels),
                }
                for name, reach in self.reach.items()
            },
            "loss": {
                "by": self.losses.by,
                "images": self.losses.images,
                "nats": self.losses.nats.tolist(),
                "right": self.losses.right.tolist(),
            },
            "mutual": {
                "images": mutual.images,
                "exact": mutual.exact,
                "too_few": mutual.too_few,
                "entropy": mutual.entropy.tolist(),
                "mean_chance": _mean(mutual.chance),
            },
            "seconds": dict(self.seconds),
            "warnings": list(self.warnings),
            "protocol": dict(self.protocol),
        }
        return finite(parts)

    def arrays(self) -> dict[str, np.ndarray]:
        """All maps by name; rows are codes and columns patches, and in `..._reach` the other way round."""
        found: dict[str, np.ndarray] = {"disturbed": self.influence.disturbed}
        maps = self.kinds() | {f"{name}_reach": reach.pixels for name, reach in self.reach.items()}
        for name, kind in maps.items():
            found |= {name: kind.mean, f"{name}_error": kind.error}
        found |= {f"{name}_replaced": reach.replaced for name, reach in self.reach.items()}
        mutual = self.mutual
        found |= {"mutual_bits": mutual.bits, "mutual_chance": mutual.chance, "entropy": mutual.entropy}
        return found | {"nats": self.losses.nats, "right": self.losses.right, "cells": self.raster.cells()}


def _shares(name: str, kind: Dependency) -> dict[str, float]:
    """The three shares of all codes, and what comes too early of grid and prefix codes by themselves."""
    found = {f"{name}_{part}": share.value for part, share in kind.shares["all"]._asdict().items()}
    if "prefix" in kind.shares:
        if name == "influence":
            found[f"{name}_future_grid"] = kind.shares["grid"].future.value
            found[f"{name}_future_prefix"] = kind.shares["prefix"].future.value
        else:  # prefix codes have no past
            found[f"{name}_past_grid"] = kind.shares["grid"].past.value
    return found


def _divided(kind: Dependency) -> dict[str, Any]:
    return {
        group: {part: share._asdict() for part, share in shares._asdict().items()}
        for group, shares in kind.shares.items()
    }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
