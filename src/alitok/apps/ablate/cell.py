"""One cell of the ablation: a tokenizer of one arm, a generator over its codes, and what both are worth.

Enters: the cell, what all cells share, and the images. Leaves, in the cell's directory, what `alitok.run.run`
describes, and:

    cell.json             its numbers, written last
    shown.npz             validation images and their reconstructions
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from alitok.apps.ablate.numbers import CellNumbers, read_cell, write_cell
from alitok.core import images as pixels
from alitok.core.distributed import World
from alitok.core.files import atomic_path, write_bytes
from alitok.data.codes import CodeStore
from alitok.data.sources.decoded import fixed_views
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.generator import Generator
from alitok.metrics.codes import bits_per_image
from alitok.metrics.frechet import frechet_distance
from alitok.metrics.influence import influence_of
from alitok.metrics.moments import Gaussian, Moments
from alitok.metrics.reconstruction import psnr, ssim
from alitok.metrics.set_distance import features_of
from alitok.recipes.arms import ARMS, AblationPreset, ArmName, cell_recipe
from alitok.recipes.presets import Recipe
from alitok.run.classifier import judge_of
from alitok.run.classifier_features import Judge
from alitok.run.measure import usage_of
from alitok.run.reconstruct import reconstruct
from alitok.run.run import Run, needs_features, settings
from alitok.run.steps import STEPS, marker, outputs
from alitok.run.tasks import spread
from alitok.run.workspace import Workspace
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.codec import TokenizerCodec
from alitok.tokenizer.model import Stage
from alitok.train.next_code import CodePredictions, predict_codes

SPLIT_SEED = 0  # every seed trains on the same images and is measured on the same
_VAL, _TRAINING = 1000, 5000  # images that a cell is measured on, and that its samples are compared with
_PROBED = 64  # validation images that are disturbed, patch by patch
_SHOWN = 12  # reconstructions for people
_BLOCK = 256  # images or sequences in memory at a time
_NUMBERS, _IMAGES = "cell.json", "shown.npz"
_FEATURES = "features"  # beside the cells


@dataclass(frozen=True)
class Cell:
    """What tells one cell from another."""

    arm: ArmName
    codebook_size: int
    seed: int

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.arm}-{self.codebook_size}-seed{self.seed}"


@dataclass(frozen=True)
class Shared:
    """What all cells have in common.

    Attributes:
        root: holds a directory for each cell.
        preset: sizes and budget.
        image_size: pixels a side of the images.
        broken: images that are left out.
    """

    root: Path
    preset: AblationPreset
    image_size: int
    broken: tuple[Broken, ...]

    def place(self, cell: Cell) -> Path:
        """The cell's directory."""
        return self.root / cell.name


def finished(place: Path) -> CellNumbers | None:
    """The numbers of a finished cell.

    Raises:
        AlitokError: the file is damaged.
    """
    path = place / _NUMBERS
    return read_cell(path) if path.exists() else None


def shown(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Held-out images (n, 3, h, h) uint8 and a finished cell's reconstructions of them."""
    with np.load(place / _IMAGES) as kept:
        return kept["originals"], kept["reconstructions"]


def do_cell(cell: Cell, shared: Shared, splits: Splits, world: World, console: Console) -> CellNumbers:
    """Train and measure a cell, or go on where an earlier start of it ended.

    An arm that shares the codes of another needs that one's cell to be finished.

    Args:
        cell: which.
        shared: as for all cells.
        splits: the images, the same for all seeds.
        world: of one process.
        console: where its trainings are told.

    Raises:
        AlitokError: the directory holds a cell of other settings, or a training failed.
        Interrupted: asked to stop; the same call goes on from there.
    """
    place, arm, recipe = shared.place(cell), ARMS[cell.arm], _recipe(cell, shared, splits)
    run = _run(place, recipe, shared, splits, cell.seed, world, console)
    if needs_features(recipe):
        _inherit(shared.root / _FEATURES, place, "features")
    if arm.codes_of is not None:
        _inherit(
            shared.place(Cell(arm.codes_of, cell.codebook_size, cell.seed)), place, "stage1", "encode", "generator"
        )
    for name in ("check", "features", "stage1", "encode", "generator", *(["stage2"] if arm.second_stage else [])):
        run.step(name)
    numbers = _measure(cell, run, console)
    write_cell(place / _NUMBERS, numbers)
    return numbers


def learn_features(shared: Shared, splits: Splits, world: World, console: Console) -> None:
    """Train what all cells compare images in, where the preset has a perceptual term; before the first of them.

    Raises:
        AlitokError: the directory holds features of other settings, or the training failed.
        Interrupted: asked to stop; the same call goes on from there.
    """
    recipe = _recipe(Cell("A", shared.preset.codebook_size, SPLIT_SEED), shared, splits)
    if needs_features(recipe):
        run = _run(shared.root / _FEATURES, recipe, shared, splits, SPLIT_SEED, world, console)
        for name in ("check", "features"):
            run.step(name)


def _recipe(cell: Cell, shared: Shared, splits: Splits) -> Recipe:
    return cell_recipe(
        shared.preset,
        ARMS[cell.arm],
        cell.codebook_size,
        image_size=shared.image_size,
        classes=len(splits.train.classes),
    )


def _run(place: Path, recipe: Recipe, shared: Shared, splits: Splits, seed: int, world: World, console: Console) -> Run:
    """A run in its directory; the images were checked once for all."""
    workspace = Workspace(
        place, settings(recipe, splits, seed), outputs=outputs(), fresh=False, console=console, world=world
    )
    workspace.step("check", STEPS["check"].title, lambda: {"broken": shared.broken})
    return Run(recipe, splits, world, workspace, seed)


def _inherit(source: Path, place: Path, *steps: str) -> None:
    """Take over what another run has made, with the markers of those steps."""
    for name in steps:
        for path in (*STEPS[name].products, marker(name)):
            if not (place / path).exists() and (source / path).exists():
                with atomic_path(place / path) as whole:
                    (shutil.copytree if (source / path).is_dir() else shutil.copyfile)(source / path, whole)


def _measure(cell: Cell, run: Run, console: Console) -> CellNumbers:
    """All numbers of a trained cell; writes the images for people."""
    stage: Stage = "stage2" if ARMS[cell.arm].second_stage else "stage1"
    device, splits = run.world.device, run.splits
    judge = judge_of(splits, run.world, console)
    tokenizer = run.tokenizer()
    generator = Generator.from_pretrained(run.root / STEPS["generator"].products[0]).to(device)
    rows = np.array(spread(len(splits.val), _VAL))
    originals = fixed_views(splits.val, rows)
    rebuilt = torch.from_numpy(np.concatenate(list(reconstruct(tokenizer, _blocks(originals), stage, device))))
    _keep_shown(run.root, originals, pixels.to_uint8(rebuilt).numpy())
    expected = pixels.to_float(torch.from_numpy(originals))
    told = _guesses(generator, run.trainings.codes("val"), rows)
    train_codes = run.trainings.codes("train")
    train_rows = np.array(spread(train_codes.images, _VAL)) * train_codes.crops
    prefix, right = tokenizer.config.prefix_length, told.correct.double()
    bits, grid_bits = bits_per_image(told.nats.mean(0), prefix)
    usage = usage_of(tokenizer, train_codes)
    sample_distance, sample_accuracy = _samples(run, generator, tokenizer, judge)
    seconds = {name: (run.workspace.done(name) or {}).get("seconds", 0.0) for name in ("stage1", "stage2", "generator")}
    decibels = psnr(expected, rebuilt)
    influence = influence_of(
        TokenizerCodec(tokenizer),
        expected[:: -(-len(expected) // _PROBED)].to(device),
        grid=tokenizer.config.grid,
        prefix=prefix,
        seed=cell.seed,
    )
    return CellNumbers(
        arm=cell.arm,
        codebook_size=cell.codebook_size,
        seed=cell.seed,
        accuracy=float(right.mean()),
        grid_accuracy=float(right[:, prefix:].mean()),
        bits=bits,
        grid_bits=grid_bits,
        train_bits=float(_guesses(generator, train_codes, train_rows).bits_per_image().mean()),
        psnr=float(decibels.mean()),
        ssim=float(ssim(expected, rebuilt).mean()),
        feature_distance=_feature_distance(judge, originals, pixels.to_uint8(rebuilt).numpy(), device),
        codebook_use=usage.use,
        codebook_perplexity=usage.perplexity,
        sample_distance=sample_distance,
        sample_accuracy=sample_accuracy,
        tokenizer_seconds=seconds["stage1"] + seconds["stage2"],
        generator_seconds=seconds["generator"],
        influence_future=None if math.isnan(influence.grid_future_share) else influence.grid_future_share,
        image_psnr=tuple(decibels.tolist()),
        image_bits=tuple(told.bits_per_image().tolist()),
    )


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK))


def _keep_shown(root: Path, originals: np.ndarray, rebuilt: np.ndarray) -> None:
    some = np.array(spread(len(originals), _SHOWN))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, originals=originals[some], reconstructions=rebuilt[some])
    write_bytes(root / _IMAGES, buffer.getvalue())


def _guesses(generator: Generator, codes: CodeStore, rows: np.ndarray) -> CodePredictions:
    """Of each code of some rows, told their class."""
    wanted = torch.from_numpy(codes.codes(rows).astype(np.int64))
    return predict_codes(generator, wanted, torch.from_numpy(codes.labels[rows]), _BLOCK)


def _feature_distance(judge: Judge, originals: np.ndarray, rebuilt: np.ndarray, device: torch.device) -> float:
    """Squared distance of an image's features to its reconstruction's, over that to another image's."""
    ours, theirs = (features_of(judge, images, device)["pool"].astype(np.float64) for images in (originals, rebuilt))
    apart = 2 * ours.var(axis=0, ddof=1).sum()  # the mean over all pairs of two images
    return float(np.square(ours - theirs).sum(1).mean() / apart)


def _samples(run: Run, generator: Generator, tokenizer: Tokenizer, judge: Judge) -> tuple[float, float]:
    """Frechet distance of samples to training images in the judge's features, and the share read as their class."""
    splits, device = run.splits, run.world.device
    labels = np.repeat(np.arange(len(splits.train.classes)), run.recipe.samples_per_class)
    drawn = features_of(judge, run.trainings.draw(generator, tokenizer, labels), device)
    real = fixed_views(splits.train, spread(len(splits.train), _TRAINING))
    distance = frechet_distance(_gaussian(features_of(judge, real, device)["pool"]), _gaussian(drawn["pool"]))
    return distance, float((drawn["probabilities"].argmax(1) == labels).mean())


def _gaussian(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    moments.update(torch.from_numpy(features))
    return moments.gaussian()
