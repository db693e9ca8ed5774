"""The result of a probe: numbers by name, JSON and arrays.

Shapes: T codes of an image, P = G * G patches, K prefix length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.core.files import finite
from alitok.metrics.dependency import Dependency, Fraction, Raster
from alitok.metrics.influence import Influence
from alitok.metrics.mutual import MutualInformation
from alitok.metrics.reach import Reach


@dataclass(frozen=True, eq=False)
class CodePredictions:
    """How well a generator predicts validation codes; `train_accuracy` is on the codes that it was trained on here.

    `nats` and `accuracy` are the mean cross-entropy and the top-1 accuracy at each position, (T,).
    """

    generator: str
    nats: np.ndarray
    accuracy: np.ndarray
    prefix: int
    train_accuracy: float | None
    images: int

    @property
    def bits(self) -> np.ndarray:
        """(T,) mean cross-entropy in bits."""
        return self.nats / math.log(2)


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """All that the files of a probe are made of: `reach` by decoder, `seconds` by part.

    The numbers depend on all of `protocol`.
    """

    title: str
    data: str
    command: str
    influence: Influence
    reach: Mapping[str, Reach]
    predictions: CodePredictions
    mutual: MutualInformation
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    protocol: Mapping[str, Any]

    @property
    def raster(self) -> Raster:
        """Layout of the codes."""
        return self.influence.raster

    def influences(self) -> dict[str, Dependency]:
        """The maps of influence that were measured, by the prefix of their numbers' names."""
        found = {
            "influence": self.influence.codes,
            "feature_influence": self.influence.features,
            "probability_influence": self.influence.probabilities,
        }
        return {name: value for name, value in found.items() if value is not None}

    def fractions(self) -> dict[str, Fraction]:
        """The single numbers with an interval, by name."""
        found: dict[str, Fraction] = {}
        for name, kind in self.influences().items():
            every, grid = kind.fractions["all"], kind.fractions["grid"]
            if name != "influence":
                found[f"{name}_future"] = every.future
                continue
            found |= {f"influence_{part}": fraction for part, fraction in every._asdict().items()}
            if "prefix" in kind.fractions:
                found["influence_future_grid"] = grid.future
                found["influence_future_prefix"] = kind.fractions["prefix"].future
        for decoder, reach in self.reach.items():
            fractions = reach.pixels.fractions
            found |= {f"{decoder}_reach_{part}": fraction for part, fraction in fractions["all"]._asdict().items()}
            if "prefix" in fractions:  # prefix codes have no past
                found[f"{decoder}_reach_past_grid"] = fractions["grid"].past
        return found

    def numbers(self) -> dict[str, float]:
        """All single numbers by name; NaN where nothing changed."""
        predictions, mutual = self.predictions, self.mutual
        found = {name: fraction.value for name, fraction in self.fractions().items()}
        found["accuracy"] = float(predictions.accuracy.mean())
        found["bits_per_image"] = float(predictions.bits.sum())
        found["grid_bits_per_image"] = float(predictions.bits[predictions.prefix :].sum())
        if predictions.train_accuracy is not None:
            found["train_accuracy"] = predictions.train_accuracy
        found["mutual_bits"] = mutual.mean_bits()
        found["mutual_bits_before"] = mutual.mean_bits_at(1)
        found["mutual_bits_above"] = mutual.mean_bits_at(self.raster.grid, predictions.prefix)
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything but the maps; NaN becomes null."""
        mutual, predictions = self.mutual, self.predictions
        chance = mutual.chance[np.isfinite(mutual.chance)]
        parts: dict[str, Any] = {
            "kind": "probe",
            "numbers": self.numbers(),
            "layout": {"grid": self.raster.grid, "prefix": self.raster.prefix, "codes": self.raster.length},
            "influence": {
                **_sampling(self.influence),
                "fractions": {name: _fractions(kind) for name, kind in self.influences().items()},
            },
            "reach": {
                name: {**_sampling(reach), "fractions": _fractions(reach.pixels)} for name, reach in self.reach.items()
            },
            "predictions": {
                "generator": predictions.generator,
                "images": predictions.images,
                "nats": predictions.nats.tolist(),
                "accuracy": predictions.accuracy.tolist(),
            },
            "mutual_information": {
                "images": mutual.images,
                "exact": mutual.exact,
                "too_few_images": mutual.too_few_images,
                "entropy": mutual.entropy.tolist(),
                "mean_chance": float(chance.mean()) if len(chance) else math.nan,
            },
            "seconds": dict(self.seconds),
            "warnings": list(self.warnings),
            "protocol": dict(self.protocol),
        }
        return finite(parts)

    def arrays(self) -> dict[str, np.ndarray]:
        """All maps by name; rows are codes and columns patches, transposed in `..._reach`."""
        mutual, predictions = self.mutual, self.predictions
        found: dict[str, np.ndarray] = {"patch_changed": self.influence.patch_changed}
        maps = self.influences() | {f"{name}_reach": reach.pixels for name, reach in self.reach.items()}
        for name, kind in maps.items():
            found |= {name: kind.mean, f"{name}_error": kind.error}
        found |= {f"{name}_code_changed": reach.code_changed for name, reach in self.reach.items()}
        found |= {"mutual_bits": mutual.bits, "mutual_chance": mutual.chance, "entropy": mutual.entropy}
        return found | {"nats": predictions.nats, "accuracy": predictions.accuracy, "cells": self.raster.cells()}


def _sampling(measured: Influence | Reach) -> dict[str, Any]:
    return {"images": measured.images, "perturbations": measured.perturbations, "exact": measured.exact}


def _fractions(kind: Dependency) -> dict[str, Any]:
    return {
        group: {part: fraction._asdict() for part, fraction in fractions._asdict().items()}
        for group, fractions in kind.fractions.items()
    }
