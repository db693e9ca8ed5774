"""From images to published metrics: features on disk block by block, statistics of a set, and distances of two sets.

The images are not saved. N images, B of a block, D features, h image size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from alitok.core.blocks import ImageBlock
from alitok.core.device import in_double
from alitok.core.distributed import World
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.features import FeatureExtractor
from alitok.metrics.frechet import Interval, frechet_bias, frechet_distance, frechet_interval
from alitok.metrics.inception_score import InceptionScore, Score
from alitok.metrics.kernel_distance import KernelDistance, kernel_distance
from alitok.metrics.moments import BlockMoments, Gaussian, Moments
from alitok.metrics.precision_recall import Manifold, manifold_scores

_BATCH, _CUDA_BATCH = 32, 128  # images that the feature network sees at a time
_RESAMPLED = 20  # blocks of images that an interval is estimated from
_EACH = 25  # images that such a block should have on average
_NEIGHBOURS = 5  # the most that a metric of `manifold_scores` needs
_SEED = 0  # of the images whose features are held
_SUBSET = 1000  # images of a subset of the kernel distance
_SHOWN = "shown"  # name of the array of images saved for a report


def extract(
    extractor: FeatureExtractor,
    blocks: Iterable[ImageBlock],
    files: FeatureFiles,
    device: torch.device,
    *,
    shown: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the features of the blocks that `files` misses (or this process's part of them) as they come.

    The job's first `shown` images are saved beside their features; `progress` gets the number of images done so far.
    """
    done = 0
    for block in blocks:
        saved = max(0, min(shown - block.indices.start, len(block.images)))
        arrays = {**features_of(extractor, block.images, device), "labels": block.labels, _SHOWN: block.images[:saved]}
        files.write(block.number, arrays)
        done += len(block.images)
        if progress is not None:
            progress(done)


def features_of(extractor: FeatureExtractor, images: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    """`pool`, `spatial` if the network has it, and `probabilities` (B, ...) float32 of images (B, 3, h, w) uint8."""
    parts: dict[str, list[np.ndarray]] = {}
    for some in torch.from_numpy(images).split(_CUDA_BATCH if device.type == "cuda" else _BATCH):
        found = extractor(some.to(device))
        for name, value in found._asdict().items():
            if value is not None:
                parts.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def saved_images(files: FeatureFiles) -> tuple[np.ndarray, np.ndarray]:
    """The images (n, 3, h, h) that `extract` saved, and their labels (n,)."""
    images, labels = [], []
    for block in files.each(_SHOWN, "labels"):
        if not len(block[_SHOWN]):
            break
        images.append(block[_SHOWN])
        labels.append(block["labels"][: len(block[_SHOWN])])
    return np.concatenate(images), np.concatenate(labels)


@dataclass(frozen=True)
class SetStatistics:
    """Statistics of a set of N images; `spatial` is None if the network has no such features.

    `features` (M, D) float32 are those of all or some images in order, on rank 0 (None elsewhere, or if not requested);
    `correct` counts images that the classifier assigns to their class (None if classes are unknown).
    """

    count: int
    pool: BlockMoments
    spatial: Moments | None
    score: InceptionScore
    features: torch.Tensor | None
    correct: int | None

    @property
    def accuracy(self) -> float | None:
        """Fraction of images that the classifier assigns to their class; None if classes are unknown."""
        return None if self.correct is None else self.correct / self.count


def gather(
    files: FeatureFiles,
    world: World,
    *,
    prefix: str = "",
    max_features: int | None = None,
    network_classes: np.ndarray | None = None,
) -> SetStatistics:
    """Statistics of all images of a job, in bounded memory; all processes call this once all blocks are written.

    Blocks are sharded across processes and the parts merged; any number of processes agrees to about 1e-12. `prefix`
    starts the arrays' names; `max_features` bounds how many random images' features are held, 4 D bytes each (None =
    all); `network_classes` (C,) is the network's class of each label, -1 if it has none (None skips the accuracy).

    Raises:
        AlitokError: a file is damaged, or a feature is not finite.
    """
    names = [prefix + name for name in ("pool", "spatial", "probabilities")]
    first = files.read(0, *names)
    device = in_double(world.device)
    count, width = files.blocks.count, first[names[0]].shape[1]
    pool = BlockMoments(width, min(_RESAMPLED, max(2, count // _EACH)), device)
    spatial = Moments(first[names[1]].shape[1], device) if names[1] in first else None
    score = InceptionScore(first[names[2]].shape[1])
    correct = 0
    mine = range(world.rank, len(files.blocks), world.size)
    for number, block in zip(mine, files.each(*names, "labels", numbers=mine), strict=True):
        images = torch.arange(files.blocks[number].start, files.blocks[number].stop)
        pool.update(torch.from_numpy(block[names[0]]).to(device), images)
        if spatial is not None:
            spatial.update(torch.from_numpy(block[names[1]]).to(device))
        score.update(torch.from_numpy(block[names[2]]), images)
        if network_classes is not None:
            correct += int((block[names[2]].argmax(1) == network_classes[block["labels"]]).sum())
    held = count if max_features is None else max_features
    features = _features(files, names[0], width, held) if world.main and held else None
    return SetStatistics(
        count,
        pool.all_reduced(world),
        None if spatial is None else spatial.all_reduced(world),
        score.all_reduced(world),
        features,
        sum(world.gather(correct)) if network_classes is not None else None,
    )


def _features(files: FeatureFiles, name: str, width: int, most: int) -> torch.Tensor:
    rows = np.arange(files.blocks.count)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(_SEED).permutation(rows)[:most])
    found = np.empty((len(rows), width), np.float32)
    for number, block in enumerate(files.each(name)):
        images = files.blocks[number]
        first, last = np.searchsorted(rows, (images.start, images.stop))
        found[first:last] = block[name][rows[first:last] - images.start]
    return torch.from_numpy(found)


class Target(NamedTuple):
    """What a set of images is compared with; None is unknown. `features` (M, D) are those of some or all images."""

    pool: Gaussian
    spatial: Gaussian | None
    features: torch.Tensor | None


class Comparison(NamedTuple):
    """A set of images compared with its target; None is what could not be computed.

    `frechet` has an interval, whose ends are NaN if it was skipped; `bias` is the expected excess of the distance over
    that of infinitely many images; `score` is the Inception Score of the set alone; `accuracy` is the fraction of
    images that the classifier assigns to their class.
    """

    frechet: Interval
    bias: float | None
    spatial: float | None
    score: Score
    manifold: Manifold | None
    kernel: KernelDistance | None
    accuracy: float | None


def enough_for_interval(statistics: SetStatistics) -> bool:
    """Whether there are enough blocks, and images in each, to resample."""
    return statistics.count >= 2 * _EACH and min(block.count for block in statistics.pool.blocks) > 1


def compare(found: SetStatistics, target: Target, *, device: torch.device, interval: bool = True) -> Comparison:
    """All metrics that the two sets allow, on rank 0 only; `interval` resamples, a minute for 2048 features.

    Raises:
        AlitokError: the features differ in number, or there are fewer than two images.
    """
    manifold = kernel = None
    if found.features is not None and target.features is not None:
        fewest = min(len(found.features), len(target.features))
        if fewest > _NEIGHBOURS:
            manifold = manifold_scores(target.features, found.features, device=device)
        if fewest > 1:
            kernel = kernel_distance(found.features, target.features, size=min(_SUBSET, fewest), device=device)
    if interval and enough_for_interval(found):
        frechet, bias = frechet_interval(found.pool, target.pool), frechet_bias(found.pool, target.pool)
    else:
        value = frechet_distance(target.pool, found.pool.total().gaussian())
        frechet, bias = Interval(value, math.nan, math.nan, math.nan), None
    spatial = None
    if found.spatial is not None and target.spatial is not None:
        spatial = frechet_distance(target.spatial, found.spatial.gaussian())
    return Comparison(frechet, bias, spatial, found.score.score(), manifold, kernel, found.accuracy)
