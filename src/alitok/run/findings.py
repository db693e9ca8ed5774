"""The findings of a preflight: numbers with bounds, what is wrong, and sheets of named images (N, 3, h, w) uint8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import finite, write_bytes, write_json
from alitok.core.sheets import named_rows

_CLASSES, _EACH = 24, 8  # rows and columns of a sheet of classes


class Findings:
    """The findings of one rank about a stage, written to a directory; `conclude` gathers those of all ranks."""

    def __init__(self, stage: str, directory: Path) -> None:
        self.stage, self.directory = stage, directory
        self.numbers: list[dict[str, Any]] = []
        self.faults: list[str] = []

    def record(self, name: str, value: Any) -> None:
        """Record a number without a bound."""
        self.numbers.append({"name": name, "value": value})

    def check(self, name: str, value: Any, bound: str, holds: bool, fault: str) -> bool:
        """Record a number, its `bound` for people and whether it `holds`; if not, `fault` says what to do."""
        self.numbers.append({"name": name, "value": value, "bound": bound, "holds": bool(holds)})
        if not holds:
            self.faults.append(fault)
        return bool(holds)

    def sheet(self, name: str, rows: Iterable[tuple[str, np.ndarray]]) -> None:
        """Write rows of images (N, 3, h, w), each beside its name."""
        write_bytes(self.directory / f"{name}.png", named_rows(list(rows)))

    def conclude(self, world: World, last: bool = False) -> None:
        """Write all numbers if this is the last time or something is wrong; every rank calls this.

        Raises:
            AlitokError: something is wrong on any rank.
        """
        everywhere = [fault for faults in world.gather(self.faults) for fault in faults]
        path = self.directory / "preflight.json"

        def write() -> None:
            report = {"stage": self.stage, "passed": not everywhere, "faults": everywhere, "numbers": self.numbers}
            write_json(path, finite(report))
            if everywhere:
                raise AlitokError(f"Preflight of {self.stage}: {everywhere[0]} All findings are in {path}.")

        if last or everywhere:
            world.on_rank0(write)


def by_class(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Rows for a sheet: the first images of each of the first classes; labels (N,)."""
    there = np.unique(labels)[:_CLASSES]
    return [(classes[label], images[labels == label][:_EACH]) for label in there.tolist()]


def rows_by_class(labels: np.ndarray, classes: int) -> np.ndarray:
    """Indices of the images on a sheet of the first classes, evenly spaced in each class; labels (N,)."""
    chosen = []
    for label in range(min(classes, _CLASSES)):
        rows = np.flatnonzero(labels == label)
        chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, min(_EACH, len(rows))).astype(int))])
    return np.concatenate(chosen)
