"""What the evaluations share: their directory, the feature network, and features that are computed once.

Features of the images are in `features/` (20 kB an image with Inception); `reference/`, and each combination in
`sweep/`, are jobs of their own. `evaluation.json` is written last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from alitok import __version__
from alitok.apps.evaluate.images import ImageSet
from alitok.apps.evaluate.options import FeaturesName
from alitok.core.blocks import Blocks
from alitok.core.console import progress_bar
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.jobdir import JobDir
from alitok.data.split import Splits
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.features import FeatureExtractor
from alitok.metrics.inception import InceptionFeatures
from alitok.metrics.set_distance import extract
from alitok.run.classifier import open_classifier

_BESIDE = ("reference", "sweep")  # directories that may exist before the job itself has begun


@dataclass(frozen=True)
class Work:
    """What all parts of one evaluation share; `root` is its directory."""

    extractor: FeatureExtractor
    world: World
    console: Console
    root: Path
    fresh: bool


def job_dir(root: Path) -> JobDir:
    """The directory of an evaluation, or of a part of one: a reference, or a combination of a sweep."""
    return JobDir(
        root,
        "job.json",
        "evaluation",
        outputs=("evaluation.json", "report.html", "features/block-*.npz", "features/.block-*.part"),
        marker={"kind": "evaluation"},
        decided=("block", "pixels"),
        allowed=_BESIDE,
    )


def discard_tree(root: Path) -> None:
    """Delete what evaluations left in a directory and below it; AlitokError where a job is not of an evaluation."""
    for job in sorted(root.rglob("job.json"), reverse=True):  # the deepest first
        job_dir(job.parent).discard()
    for folder in (*(root / name for name in _BESIDE), root):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def open_extractor(
    name: FeaturesName, weights: Path | None, splits: Splits | None, world: World, console: Console
) -> FeatureExtractor:
    """The feature network on this process's device; rank 0 downloads it, or trains it on `splits` as a classifier.

    `weights` None = Inception's cached file, or a download; AlitokError where it is not available.
    """
    if name == "classifier":
        if splits is None:
            raise AlitokError("--features classifier trains on real images; give them with --data.")
        if weights is not None:
            raise AlitokError("--inception-weights goes with --features inception; leave one of them out.")
        return open_classifier(splits, world, console).to(world.device)
    if world.size > 1:
        world.on_rank0(lambda: InceptionFeatures.load(weights).name)
    return InceptionFeatures.load(weights).to(world.device)


def begin_images(work: Work, images: ImageSet, root: Path) -> FeatureFiles:
    """Begin or resume the job of these images; all processes call this. AlitokError where `root` holds another job."""
    job = job_dir(root)
    before = None if work.fresh else work.world.on_rank0(job.read)
    settings = {**images.settings, "features": work.extractor.name, "alitok": __version__}
    stored = job.begin({**settings, **images.decide(before)}, work.world, fresh=work.fresh)
    images.decide(stored)
    return FeatureFiles(root / "features", Blocks(images.count, stored["block"]))


def write_features(work: Work, files: FeatureFiles, images: ImageSet, title: str, shown: int = 0) -> FeatureFiles:
    """Compute the features that `files` misses, and return it; all processes call this after `begin_images`.

    The first `shown` images are saved for the report. AlitokError where an image cannot be made or read.
    """
    world = work.world
    missing = world.on_rank0(files.missing)
    total = sum(len(files.blocks[number]) for number in missing[world.rank :: world.size])
    with progress_bar(work.console, title, total) as bar:
        extract(
            work.extractor,
            images.blocks(missing, world),
            files,
            world.device,
            shown=shown,
            progress=lambda done: bar.advance(done, {}, total),
        )
    world.barrier()
    return files
