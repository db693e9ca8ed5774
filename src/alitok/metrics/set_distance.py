"""Images to the numbers that stand in papers: features block by block, their statistics, and distances of two sets.

Enters: blocks of images from anywhere (a sampler, files, a tokenizer), and a feature network. Leaves: features on
disk, then `Seen`, the statistics of a set, and `Compared`, what two sets are to one another. Images are never kept.
Shapes: N images, B of a block, D features, h image side.
"""

from __future__ import annotations

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

_BATCH = {"cuda": 128}
_BATCH_ELSEWHERE = 32  # images that the feature network sees at a time
_RESAMPLED = 20  # blocks of images that an interval is drawn from
_EACH = 25  # images that such a block should have on average
_NEIGHBOURS = 5  # the most that a measure of `manifold_scores` asks for
_SEED = 0  # of the images whose features are kept
_SUBSET = 1000  # images of a subset of the kernel distance
_SHOWN = "shown"  # the name of the images kept for people


def extract(
    extractor: FeatureExtractor,
    blocks: Iterable[ImageBlock],
    files: FeatureFiles,
    device: torch.device,
    *,
    shown: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the features of blocks as they come.

    Args:
        extractor: on `device`.
        blocks: those that `files` misses, or this process' share of them.
        files: where they are kept.
        device: of the extractor.
        shown: the first so many images of the job are kept beside their features, for a report.
        progress: called with the images done so far.

    Raises:
        AlitokError: what the blocks raise.
    """
    done = 0
    for block in blocks:
        kept = max(0, min(shown - block.indices.start, len(block.images)))
        arrays = {**features_of(extractor, block.images, device), "labels": block.labels, _SHOWN: block.images[:kept]}
        files.write(block.number, arrays)
        done += len(block.images)
        if progress is not None:
            progress(done)


def features_of(extractor: FeatureExtractor, images: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    """`pool`, `spatial` where there is one, and `probabilities` (B, ...) float32 of images (B, 3, h, w) uint8."""
    parts: dict[str, list[np.ndarray]] = {}
    for some in torch.from_numpy(images).split(_BATCH.get(device.type, _BATCH_ELSEWHERE)):
        found = extractor(some.to(device))
        for name, value in found._asdict().items():
            if value is not None:
                parts.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def shown_images(files: FeatureFiles) -> tuple[np.ndarray, np.ndarray]:
    """The images (n, 3, h, h) that `extract` kept, and their labels (n,)."""
    images, labels = [], []
    for block in files.each(_SHOWN, "labels"):
        if not len(block[_SHOWN]):
            break
        images.append(block[_SHOWN])
        labels.append(block["labels"][: len(block[_SHOWN])])
    return np.concatenate(images), np.concatenate(labels)


@dataclass(frozen=True)
class Seen:
    """The statistics of a set of images.

    Attributes:
        count: N.
        pool: moments of the features, in random blocks.
        spatial: moments of the features that keep places; None where the network has none.
        score: what the Inception Score is made of.
        features: (M, D) float32 of all images in order or of some, on the first process; elsewhere, and where they
            were not asked for, None.
        right: how many images were read as the class they should be of; None where classes are not known.
    """

    count: int
    pool: BlockMoments
    spatial: Moments | None
    score: InceptionScore
    features: torch.Tensor | None
    right: int | None


def gather(
    files: FeatureFiles,
    world: World,
    *,
    prefix: str = "",
    most_kept: int | None = None,
    to_judge: np.ndarray | None = None,
) -> Seen:
    """The statistics of all images of a job, in bounded memory; all processes call this once all blocks are there.

    Each process reads its share of the blocks, and the parts are merged, so that any number of them gives the same to
    about 1e-12.

    Args:
        files: of the job.
        world: the processes.
        prefix: before the names of the arrays, where a block holds several sets of images.
        most_kept: of how many images, drawn at random, the features themselves are held, 4 D bytes each, which
            precision, recall and the kernel distance need; None = all.
        to_judge: (C,) the network's class of each class number, -1 where it has none; None judges nothing.

    Raises:
        AlitokError: a file is damaged, or a feature is not a finite number.
    """
    names = [prefix + name for name in ("pool", "spatial", "probabilities")]
    first = files.read(0, *names)
    device = in_double(world.device)
    count, width = files.blocks.count, first[names[0]].shape[1]
    pool = BlockMoments(width, min(_RESAMPLED, max(2, count // _EACH)), device)
    spatial = Moments(first[names[1]].shape[1], device) if names[1] in first else None
    score = InceptionScore(first[names[2]].shape[1])
    right = 0
    mine = range(world.rank, len(files.blocks), world.size)
    for number, block in zip(mine, files.each(*names, "labels", numbers=mine), strict=True):
        images = torch.arange(files.blocks[number].start, files.blocks[number].stop)
        pool.update(torch.from_numpy(block[names[0]]).to(device), images)
        if spatial is not None:
            spatial.update(torch.from_numpy(block[names[1]]).to(device))
        score.update(torch.from_numpy(block[names[2]]), images)
        if to_judge is not None:
            right += int((block[names[2]].argmax(1) == to_judge[block["labels"]]).sum())
    features = _kept(files, names[0], width, count if most_kept is None else most_kept) if world.main else None
    return Seen(
        count,
        pool.all_reduced(world),
        None if spatial is None else spatial.all_reduced(world),
        score.all_reduced(world),
        features,
        sum(world.gather(right)) if to_judge is not None else None,
    )


def _kept(files: FeatureFiles, name: str, width: int, most: int) -> torch.Tensor | None:
    """The features (M, D) of at most so many images, in their order; None for none."""
    if not most:
        return None
    rows = np.arange(files.blocks.count)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(_SEED).permutation(rows)[:most])
    kept = np.empty((len(rows), width), np.float32)
    for number, block in enumerate(files.each(name)):
        images = files.blocks[number]
        first, last = np.searchsorted(rows, (images.start, images.stop))
        kept[first:last] = block[name][rows[first:last] - images.start]
    return torch.from_numpy(kept)


class Target(NamedTuple):
    """What a set of images is compared with.

    Attributes:
        pool: mean (D,) and covariance (D, D).
        spatial: likewise of the features that keep places; None where they are not known.
        features: (M, D) of some or all of its images; None where they are not known.
    """

    pool: Gaussian
    spatial: Gaussian | None
    features: torch.Tensor | None


class Compared(NamedTuple):
    """What a set of images is to its target; None is what could not be computed.

    Attributes:
        frechet: squared Frechet distance of the features, with its interval; without one its ends are NaN.
        bias: by how much it is expected to be larger than with any number of images.
        spatial: the same distance of the features that keep places.
        score: Inception Score of the set alone.
        manifold: precision, recall, density, coverage.
        kernel: kernel distance.
        accuracy: share of images read as their class.
    """

    frechet: Interval
    bias: float | None
    spatial: float | None
    score: Score
    manifold: Manifold | None
    kernel: KernelDistance | None
    accuracy: float | None


def enough_for_interval(seen: Seen) -> bool:
    """Whether there are blocks enough, and images in each, to draw resamples from."""
    return seen.count >= 2 * _EACH and min(block.count for block in seen.pool.blocks) > 1


def compare(seen: Seen, target: Target, *, device: torch.device, interval: bool = True) -> Compared:
    """All numbers that the two sets allow; one process does it.

    Args:
        seen: the images.
        target: what they are compared with.
        device: where distances of many pairs are computed.
        interval: whether to draw resamples, which takes a minute with 2048 features.

    Raises:
        AlitokError: the two are of other features, or there are fewer than two images.
    """
    manifold = kernel = None
    if seen.features is not None and target.features is not None:
        fewest = min(len(seen.features), len(target.features))
        if fewest > _NEIGHBOURS:
            manifold = manifold_scores(target.features, seen.features, device=device)
        if fewest > 1:
            kernel = kernel_distance(seen.features, target.features, size=min(_SUBSET, fewest), device=device)
    resampled = interval and enough_for_interval(seen)
    if resampled:
        frechet = frechet_interval(seen.pool, target.pool)
    else:
        value = frechet_distance(target.pool, seen.pool.total().gaussian())
        frechet = Interval(value, float("nan"), float("nan"), float("nan"))
    spatial = None
    if seen.spatial is not None and target.spatial is not None:
        spatial = frechet_distance(target.spatial, seen.spatial.gaussian())
    return Compared(
        frechet=frechet,
        bias=frechet_bias(seen.pool, target.pool) if resampled else None,
        spatial=spatial,
        score=seen.score.score(),
        manifold=manifold,
        kernel=kernel,
        accuracy=None if seen.right is None else seen.right / seen.count,
    )
