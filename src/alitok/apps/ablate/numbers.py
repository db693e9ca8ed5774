"""The finished numbers of an ablation, as they are kept in `ablation.json`.

Enter: a `CellNumbers` for each cell that is finished. Leaves: the file, and cells by arm, codebook and seed.
Shapes: N validation images, the same ones in the same order in every cell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, write_json

SCHEMA = 1  # of the file; larger where an older reader would misread it
_NOT_FINITE = ("nan", "inf", "-inf")  # JSON has no numbers for these


@config
class CellNumbers:
    """What one tokenizer and the generator over its codes are worth, on validation images unless said otherwise.

    Attributes:
        arm: key of the arm.
        codebook_size: V.
        seed: of all trainings of the cell.
        accuracy: share of codes that the generator guesses right, in [0, 1].
        grid_accuracy: of the grid's codes alone.
        bits: an image's codes take when coded with the generator's probabilities.
        grid_bits: of the grid's codes alone.
        train_bits: `bits` of training images; far below those of held-out ones, it has learnt images by heart.
        psnr: dB, the mean over images.
        ssim: the mean over images, in [-1, 1].
        feature_distance: squared distance of a classifier's features of an image and its reconstruction over that of
            two unrelated images; 0 = the same, 1 = as far as another image.
        codebook_use: share of the codebook that the training images use, in [0, 1].
        codebook_perplexity: of their codes, in [1, V].
        sample_distance: Frechet distance of samples from training images in the classifier's features; no FID.
        sample_accuracy: share of samples read as the class they were drawn for, in [0, 1].
        tokenizer_seconds, generator_seconds: of their trainings.
        influence_future: share of the influence on a code that later patches have, in [0, 1]; None = not measured.
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
        """Refuse what no measurement gives."""
        require_at_least(self, 1, "codebook_size")
        if len(self.image_psnr) != len(self.image_bits):
            raise AlitokError(
                f"image_psnr and image_bits must be of the same images, not of {len(self.image_psnr)} and "
                f"{len(self.image_bits)}"
            )

    @property
    def key(self) -> tuple[str, int, int]:
        """Arm, codebook and seed."""
        return self.arm, self.codebook_size, self.seed

    @property
    def seconds(self) -> float:
        """Of both trainings."""
        return self.tokenizer_seconds + self.generator_seconds


class Summary(NamedTuple):
    """A number over the seeds.

    Attributes:
        mean: over those that are finite.
        spread: their sample standard deviation; None for a single one.
        finite: how many there are.
    """

    mean: float
    spread: float | None
    finite: int


def summary(values: Iterable[float | None]) -> Summary | None:
    """Mean and spread of the finite values; None where there is none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    mean = math.fsum(finite) / len(finite)
    if len(finite) == 1:
        return Summary(mean, None, 1)
    return Summary(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / (len(finite) - 1)), len(finite))


@config
class Ablation:
    """The cells that are finished, and what they share.

    Attributes:
        data: name of the images.
        preset: name of sizes and budget.
        image_size: pixels a side.
        patch_size: pixels a side of what one code of the grid stands for.
        codebook_size: of the main table.
        arms: by key, in the order of the table, what differs in each.
        cells: that are finished, no two of one arm, codebook and seed.
        settings: whatever else the numbers depend on, as JSON has it.
        planned: arm, codebook and seed of every cell that was asked for; empty = told from the cells, so that an arm
            of the table lacks the seeds that any other has.
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
        """Refuse cells that cannot be told apart or belong to no arm."""
        require_at_least(self, 1, "image_size", "patch_size", "codebook_size")
        keys = [cell.key for cell in self.cells]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise AlitokError("two cells are of arm {}, codebook {}, seed {}".format(*twice))
        stray = next((arm for arm, _, _ in [*keys, *self.planned] if arm not in self.arms), None)
        if stray is not None:
            raise AlitokError(f"a cell is of arm '{stray}', which is not among the arms ({', '.join(self.arms)})")

    def of(self, arm: str, codebook_size: int | None = None) -> tuple[CellNumbers, ...]:
        """The cells of an arm by seed, at one codebook; at the main one unless given."""
        size = self.codebook_size if codebook_size is None else codebook_size
        return tuple(
            sorted(
                (cell for cell in self.cells if (cell.arm, cell.codebook_size) == (arm, size)),
                key=lambda cell: cell.seed,
            )
        )

    def by_seed(self, arm: str) -> dict[int, tuple[CellNumbers, ...]]:
        """The cells of an arm at all its codebooks, smallest first, by seed."""
        cells = sorted(
            (cell for cell in self.cells if cell.arm == arm), key=lambda cell: (cell.seed, cell.codebook_size)
        )
        return {
            seed: tuple(cell for cell in cells if cell.seed == seed) for seed in {cell.seed: None for cell in cells}
        }

    def paired(self, first: str, second: str) -> list[tuple[CellNumbers, CellNumbers]]:
        """Cells of two arms at the main codebook, of the seeds that both have."""
        seconds = {cell.seed: cell for cell in self.of(second)}
        return [(cell, seconds[cell.seed]) for cell in self.of(first) if cell.seed in seconds]

    def sizes(self, arm: str | None = None) -> tuple[int, ...]:
        """Codebooks of an arm's finished cells, or of all arms', smallest first."""
        return tuple(sorted({cell.codebook_size for cell in self.cells if arm in (None, cell.arm)}))

    def seeds(self) -> tuple[int, ...]:
        """Of all finished cells."""
        return tuple(sorted({cell.seed for cell in self.cells}))

    def missing(self) -> list[tuple[str, int, int]]:
        """Arm, codebook and seed of the cells that were asked for and are not there, in the order of the table."""
        there = {cell.key for cell in self.cells}
        asked = self.planned or [
            (arm, size, seed)
            for arm in self.arms
            for size in sorted({self.codebook_size, *self.sizes(arm)})
            for seed in self.seeds()
        ]
        return [key for key in asked if key not in there]


def write_numbers(path: Path, ablation: Ablation) -> None:
    """Write `ablation.json`, whole or not at all."""
    write_json(path, {"schema": SCHEMA, **_told(to_dict(ablation))})


def write_cell(path: Path, cell: CellNumbers) -> None:
    """Write a single cell, whole or not at all."""
    write_json(path, _told(to_dict(cell)))


def read_cell(path: Path) -> CellNumbers:
    """Read a single cell.

    Raises:
        AlitokError: the file is missing or damaged.
    """
    return from_dict(CellNumbers, _numbers(read_json(path)), str(path))


def read_numbers(path: Path) -> Ablation:
    """Read `ablation.json`.

    Raises:
        AlitokError: the file is missing, damaged, or of another schema.
    """
    data = read_json(path)
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise AlitokError(f"{path} holds no ablation of schema {SCHEMA}; write it anew with alitok ablate.")
    data = {name: value for name, value in data.items() if name != "schema"}
    cells = data.get("cells")
    if isinstance(cells, list):
        data["cells"] = [_numbers(cell) for cell in cells]
    return from_dict(Ablation, data, str(path))


def _told(value: Any) -> Any:
    """The same with text for the numbers that JSON has not, as here readers want to have them back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _told(inner) for key, inner in value.items()}
    return [_told(inner) for inner in value] if isinstance(value, list) else value


def _numbers(cell: Any) -> Any:
    """A cell with these texts as numbers again."""
    if isinstance(cell, dict):
        return {key: value if key == "arm" else _numbers(value) for key, value in cell.items()}
    if isinstance(cell, list):
        return [_numbers(inner) for inner in cell]
    return float(cell) if isinstance(cell, str) and cell in _NOT_FINITE else cell
