"""The numbers of an ablation's finished cells, and the files `cell.json` and `ablation.json`.

Shapes: N validation images, the same ones in the same order in every cell.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, write_json

SCHEMA = 1  # of ablation.json; increased if an older reader would misread it
_NOT_FINITE = ("nan", "inf", "-inf")  # text in the files, as JSON has no numbers for these


@config
class CellNumbers:
    """Metrics of one tokenizer and the generator over its codes, on validation images unless noted.

    Attributes:
        accuracy: top-1 accuracy of the generator on the codes, in [0, 1]; `grid_accuracy` of the grid codes alone.
        bits: per image, the cross-entropy of its codes under the generator; `grid_bits` of the grid codes alone.
        train_bits: of training images; far below `bits` if the generator overfits.
        psnr: dB, the mean over images.
        ssim: the mean over images, in [-1, 1].
        feature_distance: squared distance between a classifier's features of an image and its reconstruction, over
            that between two images; 0 = identical, 1 = as far as another image.
        codebook_use: fraction of the codebook that the training images use, in [0, 1].
        codebook_perplexity: of their codes, in [1, V].
        sample_distance: Frechet distance between samples and training images in the classifier's features.
        sample_accuracy: fraction of samples classified as their class, in [0, 1].
        influence_future: fraction of the influence on grid codes that later patches have, in [0, 1]; None = unknown.
        image_psnr: (N,) dB.
        image_bits: (N,) bits.
    """

    arm: str
    codebook_size: int
    seed: int
    accuracy: float
    grid_accuracy: float
    bits: float
    grid_bits: float
    train_bits: float
    psnr: float
    ssim: float
    feature_distance: float
    codebook_use: float
    codebook_perplexity: float
    sample_distance: float
    sample_accuracy: float
    tokenizer_seconds: float
    generator_seconds: float
    influence_future: float | None
    image_psnr: tuple[float, ...]
    image_bits: tuple[float, ...]

    def __post_init__(self) -> None:
        require_at_least(self, 1, "codebook_size")
        if len(self.image_psnr) != len(self.image_bits):
            raise AlitokError(
                f"image_psnr and image_bits must be of the same images, not of {len(self.image_psnr)} and "
                f"{len(self.image_bits)}"
            )

    @property
    def key(self) -> tuple[str, int, int]:
        """Arm, codebook size and seed."""
        return self.arm, self.codebook_size, self.seed

    @property
    def seconds(self) -> float:
        """Of all trainings."""
        return self.tokenizer_seconds + self.generator_seconds


class MeanStd(NamedTuple):
    """A number over the seeds: mean and sample standard deviation (None for a single seed) of the finite values."""

    mean: float
    std: float | None
    seeds: int


def mean_std(values: Iterable[float | None]) -> MeanStd | None:
    """Statistics of the finite values; None without any."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    std = statistics.stdev(finite) if len(finite) > 1 else None
    return MeanStd(math.fsum(finite) / len(finite), std, len(finite))


@config
class Ablation:
    """The finished cells and what they share; images and patches in px.

    Attributes:
        codebook_size: of the main table.
        arms: title of each arm by its key, in the order of the table.
        cells: unique in arm, codebook size and seed.
        settings: whatever else the numbers depend on, as JSON.
        planned: arm, codebook size and seed of all requested cells; empty = every seed of any arm for every arm.
    """

    data: str
    preset: str
    image_size: int
    patch_size: int
    codebook_size: int
    arms: dict[str, str]
    cells: tuple[CellNumbers, ...]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    planned: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        require_at_least(self, 1, "image_size", "patch_size", "codebook_size")
        keys = [cell.key for cell in self.cells]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise AlitokError("two cells have arm {}, codebook size {} and seed {}".format(*twice))
        stray = next((arm for arm, _, _ in [*keys, *self.planned] if arm not in self.arms), None)
        if stray is not None:
            raise AlitokError(f"a cell has the unknown arm '{stray}'; the arms are {', '.join(self.arms)}")

    def of(self, arm: str, codebook_size: int | None = None) -> tuple[CellNumbers, ...]:
        """The cells of an arm by seed, at one codebook size; the main one unless given."""
        size = self.codebook_size if codebook_size is None else codebook_size
        found = (cell for cell in self.cells if (cell.arm, cell.codebook_size) == (arm, size))
        return tuple(sorted(found, key=lambda cell: cell.seed))

    def by_seed(self, arm: str) -> dict[int, tuple[CellNumbers, ...]]:
        """The cells of an arm at all its codebook sizes, smallest first, by seed."""
        cells = sorted(self.cells, key=lambda cell: (cell.seed, cell.codebook_size))
        groups = itertools.groupby((cell for cell in cells if cell.arm == arm), key=lambda cell: cell.seed)
        return {seed: tuple(group) for seed, group in groups}

    def paired(self, first: str, second: str) -> list[tuple[CellNumbers, CellNumbers]]:
        """Cells of two arms at the main codebook size, of the seeds that both have."""
        seconds = {cell.seed: cell for cell in self.of(second)}
        return [(cell, seconds[cell.seed]) for cell in self.of(first) if cell.seed in seconds]

    def sizes(self, arm: str | None = None) -> tuple[int, ...]:
        """Codebook sizes of the finished cells of an arm, or of all arms, smallest first."""
        return tuple(sorted({cell.codebook_size for cell in self.cells if arm in (None, cell.arm)}))

    def seeds(self) -> tuple[int, ...]:
        """Of all finished cells."""
        return tuple(sorted({cell.seed for cell in self.cells}))

    def missing(self) -> list[tuple[str, int, int]]:
        """Arm, codebook size and seed of the requested cells that are not finished, in the order of the table."""
        finished = {cell.key for cell in self.cells}
        requested = self.planned or [
            (arm, size, seed)
            for arm in self.arms
            for size in sorted({self.codebook_size, *self.sizes(arm)})
            for seed in self.seeds()
        ]
        return [key for key in requested if key not in finished]


def write_numbers(path: Path, numbers: CellNumbers | Ablation) -> None:
    """Write `cell.json` or `ablation.json`, whole or not at all."""
    schema = {"schema": SCHEMA} if isinstance(numbers, Ablation) else {}
    write_json(path, {**schema, **_to_json(to_dict(numbers))})


def read_cell(path: Path) -> CellNumbers:
    """Read a single cell; AlitokError where the file is missing or damaged."""
    return from_dict(CellNumbers, _from_json(read_json(path)), str(path))


def _to_json(value: Any) -> Any:
    """The same with text for numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _to_json(inner) for key, inner in value.items()}
    return [_to_json(inner) for inner in value] if isinstance(value, list) else value


def _from_json(cell: Any) -> Any:
    """A cell with these texts as numbers again."""
    if isinstance(cell, dict):
        return {key: value if key == "arm" else _from_json(value) for key, value in cell.items()}
    if isinstance(cell, list):
        return [_from_json(inner) for inner in cell]
    return float(cell) if isinstance(cell, str) and cell in _NOT_FINITE else cell
