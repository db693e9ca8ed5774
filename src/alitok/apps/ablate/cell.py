"""One cell of the ablation: trains a tokenizer of one arm and a generator over its codes, and measures both.

Its directory is that of a run with two more files: `preview.npz`, and `cell.json`, its numbers, written last.
"""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from alitok.apps.ablate.numbers import CellNumbers, read_cell, write_numbers
from alitok.core.distributed import World
from alitok.core.files import atomic_path, write_bytes
from alitok.core.images import to_float, to_uint8
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
from alitok.recipes.ablation import AblationPreset, cell_recipe
from alitok.recipes.arms import ARMS, ArmName
from alitok.recipes.presets import Recipe
from alitok.run.classifier import ClassifierFeatures, open_classifier
from alitok.run.measure import reconstruct, usage_of
from alitok.run.run import Run, needs_features, settings
from alitok.run.rundir import RunDir, finished_report
from alitok.run.steps import STEPS, marker
from alitok.run.tasks import spread
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage, TokenizerCodec
from alitok.train.predictability import CodePredictions, predict_codes

SPLIT_SEED = 0  # every seed trains and is measured on the same images
_VAL_IMAGES, _TRAIN_IMAGES = 1000, 5000  # that a cell is measured on, and that its samples are compared with
_PERTURBED = 64  # validation images whose patches are replaced
_PREVIEWED = 12  # reconstructions in the report
_BLOCK = 256  # images or sequences in memory at a time
_NUMBERS, _PREVIEW = "cell.json", "preview.npz"
_FEATURES = "features"  # beside the cells


@dataclass(frozen=True)
class Cell:
    """Identity of a cell."""

    arm: ArmName
    codebook_size: int
    seed: int

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.arm}-{self.codebook_size}-seed{self.seed}"


@dataclass(frozen=True)
class Shared:
    """What all cells have in common: `root` holds their directories, `broken` images are left out."""

    root: Path
    preset: AblationPreset
    image_size: int
    broken: tuple[Broken, ...]

    def directory(self, cell: Cell) -> Path:
        """The cell's directory."""
        return self.root / cell.name


def read_finished(directory: Path) -> CellNumbers | None:
    """The numbers of a cell; None unless it is finished; AlitokError where the file is damaged."""
    path = directory / _NUMBERS
    return read_cell(path) if path.exists() else None


def read_preview(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Validation images (n, 3, h, h) uint8 and a finished cell's reconstructions of them."""
    with np.load(directory / _PREVIEW) as arrays:
        return arrays["originals"], arrays["reconstructions"]


def run_cell(cell: Cell, shared: Shared, splits: Splits, world: World, console: Console) -> CellNumbers:
    """Train and measure a cell, or resume it; an arm that shares the codes of another needs that one's finished cell.

    `world` is of one process. AlitokError where the directory holds other settings, or a training failed; Interrupted
    where asked to stop: the same call resumes.
    """
    directory, arm, recipe = shared.directory(cell), ARMS[cell.arm], _recipe(cell, shared, splits)
    run = _run(directory, recipe, shared, splits, cell.seed, world, console)
    if needs_features(recipe):
        _copy_steps(shared.root / _FEATURES, directory, "features")
    if arm.codes_of is not None:
        base = shared.directory(Cell(arm.codes_of, cell.codebook_size, cell.seed))
        _copy_steps(base, directory, "stage1", "encode", "generator")
    for name in ("check", "features", "stage1", "encode", "generator", *(["stage2"] if arm.stage2 else [])):
        run.step(name)
    numbers = _measure(cell, run, console)
    write_numbers(directory / _NUMBERS, numbers)
    return numbers


def train_features(shared: Shared, splits: Splits, world: World, console: Console) -> None:
    """Train the feature network of all cells, if the preset has a perceptual term; before the first cell.

    AlitokError where the directory holds other settings, or the training failed; Interrupted as in `run_cell`.
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


def _run(
    directory: Path, recipe: Recipe, shared: Shared, splits: Splits, seed: int, world: World, console: Console
) -> Run:
    """The images were checked once for all cells."""
    run_dir = RunDir(directory, settings(recipe, splits, seed), console=console, world=world)
    run_dir.step("check", STEPS["check"].title, lambda: {"broken": shared.broken})
    return Run(recipe, splits, world, run_dir, seed)


def _copy_steps(source: Path, directory: Path, *steps: str) -> None:
    for name in steps:
        for path in (*STEPS[name].products, marker(name)):
            if not (directory / path).exists() and (source / path).exists():
                with atomic_path(directory / path) as copy:
                    (shutil.copytree if (source / path).is_dir() else shutil.copyfile)(source / path, copy)


def _measure(cell: Cell, run: Run, console: Console) -> CellNumbers:
    stage: Stage = "stage2" if ARMS[cell.arm].stage2 else "stage1"
    device, splits = run.world.device, run.splits
    classifier = open_classifier(splits, run.world, console)
    tokenizer = run.load_tokenizer()
    generator = Generator.from_pretrained(run.root / STEPS["generator"].products[0]).to(device)
    rows = np.array(spread(len(splits.val), _VAL_IMAGES))
    originals = fixed_views(splits.val, rows)
    blocks = (originals[start : start + _BLOCK] for start in range(0, len(originals), _BLOCK))
    reconstructed = torch.from_numpy(np.concatenate(list(reconstruct(tokenizer, blocks, stage, device))))
    reconstructions = to_uint8(reconstructed).numpy()
    shown, buffer = spread(len(originals), _PREVIEWED), io.BytesIO()
    np.savez_compressed(buffer, originals=originals[shown], reconstructions=reconstructions[shown])
    write_bytes(run.root / _PREVIEW, buffer.getvalue())
    expected = to_float(torch.from_numpy(originals))
    predicted = _predict(generator, run.trainings.codes("val"), rows)
    train_codes = run.trainings.codes("train")
    train_rows = np.array(spread(train_codes.images, _VAL_IMAGES)) * train_codes.crops
    prefix, correct = tokenizer.config.prefix_length, predicted.correct.double()
    bits, grid_bits = bits_per_image(predicted.nats.mean(0), prefix)
    usage = usage_of(tokenizer, train_codes)
    sample_distance, sample_accuracy = _measure_samples(run, generator, tokenizer, classifier)
    reports = {name: finished_report(run.root, name) or {} for name in ("stage1", "stage2", "generator")}
    seconds = {name: report.get("seconds", 0.0) for name, report in reports.items()}
    image_psnr = psnr(expected, reconstructed)
    influence = influence_of(
        TokenizerCodec(tokenizer),
        expected[:: -(-len(expected) // _PERTURBED)].to(device),
        grid=tokenizer.config.grid,
        prefix=prefix,
        seed=cell.seed,
    ).grid_future_fraction
    return CellNumbers(
        arm=cell.arm,
        codebook_size=cell.codebook_size,
        seed=cell.seed,
        accuracy=float(correct.mean()),
        grid_accuracy=float(correct[:, prefix:].mean()),
        bits=bits,
        grid_bits=grid_bits,
        train_bits=float(_predict(generator, train_codes, train_rows).bits_per_image().mean()),
        psnr=float(image_psnr.mean()),
        ssim=float(ssim(expected, reconstructed).mean()),
        feature_distance=_feature_distance(classifier, originals, reconstructions, device),
        codebook_use=usage.use,
        codebook_perplexity=usage.perplexity,
        sample_distance=sample_distance,
        sample_accuracy=sample_accuracy,
        tokenizer_seconds=seconds["stage1"] + seconds["stage2"],
        generator_seconds=seconds["generator"],
        influence_future=None if math.isnan(influence) else influence,
        image_psnr=tuple(image_psnr.tolist()),
        image_bits=tuple(predicted.bits_per_image().tolist()),
    )


def _predict(generator: Generator, codes: CodeStore, rows: np.ndarray) -> CodePredictions:
    """Teacher-forced predictions of all codes of some rows, conditioned on their classes."""
    wanted = torch.from_numpy(codes.codes(rows).astype(np.int64))
    return predict_codes(generator, wanted, torch.from_numpy(codes.labels[rows]), _BLOCK)


def _feature_distance(
    classifier: ClassifierFeatures, originals: np.ndarray, reconstructions: np.ndarray, device: torch.device
) -> float:
    """Squared distance between features of an image and its reconstruction, over that between two images."""
    real, fake = (
        features_of(classifier, some, device)["pool"].astype(np.float64) for some in (originals, reconstructions)
    )
    apart = 2 * real.var(axis=0, ddof=1).sum()  # the mean over all pairs of images
    return float(np.square(real - fake).sum(1).mean() / apart)


def _measure_samples(
    run: Run, generator: Generator, tokenizer: Tokenizer, classifier: ClassifierFeatures
) -> tuple[float, float]:
    """Frechet distance between samples and training images, and the fraction of samples classified as their class."""
    splits, device = run.splits, run.world.device
    labels = np.repeat(np.arange(len(splits.train.classes)), run.recipe.samples_per_class)
    samples = features_of(classifier, run.trainings.sample(generator, tokenizer, labels), device)
    real = features_of(classifier, fixed_views(splits.train, spread(len(splits.train), _TRAIN_IMAGES)), device)
    distance = frechet_distance(_gaussian(real["pool"]), _gaussian(samples["pool"]))
    return distance, float((samples["probabilities"].argmax(1) == labels).mean())


def _gaussian(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    moments.update(torch.from_numpy(features))
    return moments.gaussian()
