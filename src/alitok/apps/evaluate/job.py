"""What the evaluations share: their directory, features of images that are made once, and the names of numbers.

Enters: images to judge and a feature network. Leaves: features on disk, which a later start goes on with.

    OUT/evaluation.json       all numbers and what they depend on, written last
    OUT/report.html           the same for people, with images
    OUT/features/             what the network said of the images, by blocks; 20 kB an image with Inception
    OUT/reference/            likewise of the reference, where that is images
    OUT/sweep/                likewise of the settings tried
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from alitok import __version__
from alitok.apps.evaluate.samples import Evaluated
from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.console import progress_bar
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, write_json
from alitok.core.system import require_libraries
from alitok.data.split import Splits
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.features import FeatureExtractor
from alitok.metrics.inception import InceptionFeatures
from alitok.metrics.set_distance import Compared, extract
from alitok.run.classifier import judge_of

FeaturesName = Literal["inception", "classifier"]
EvaluationKind = Literal["generation", "reconstruction"]
NOTABLE = 0.05  # bias, as a share of the distance, from which on a reader is warned
PUBLISHED_COUNT = 50_000  # images that published numbers of generation are taken over
_OWN = ("reference", "sweep")  # what may be there before the job itself has begun
_OUTCOMES = ("evaluation.json", "report.html")
_TOLD = 60  # letters of a setting that a message shows


@dataclass(frozen=True)
class Work:
    """What all parts of one evaluation share.

    Attributes:
        extractor: the feature network, on the device of this process.
        world: the processes.
        console: where progress is told.
        root: the directory of the evaluation.
        fresh: whether what an earlier evaluation left there is thrown away.
    """

    extractor: FeatureExtractor
    world: World
    console: Console
    root: Path
    fresh: bool


def open_extractor(
    name: FeaturesName, weights: Path | None, splits: Splits | None, world: World, console: Console
) -> FeatureExtractor:
    """The feature network, on the device of this process; one process fetches or trains it for all.

    Args:
        name: which.
        weights: Inception's file; None takes the cache, or downloads it.
        splits: the data that a classifier learns, and is kept for.
        world: the processes.
        console: where its training is told.

    Raises:
        AlitokError: it cannot be had.
    """
    if name == "classifier":
        if splits is None:
            raise AlitokError("--features classifier needs the real images that it learns from; name them with --data.")
        if weights is not None:
            raise AlitokError("--inception-weights goes with --features inception; leave one of them out.")
        return judge_of(splits, world, console).to(world.device)
    first = world.on_rank0(lambda: InceptionFeatures.load(weights) if world.size == 1 else _fetch(weights))
    return (first or InceptionFeatures.load(weights)).to(world.device)


def _fetch(weights: Path | None) -> None:
    """One process downloads."""
    InceptionFeatures.load(weights)


def require_evaluation() -> None:
    """Refuse to begin what could not be concluded.

    Raises:
        AlitokError: a library of the numbers or of the report is missing.
    """
    require_libraries("An evaluation", "eval", "scipy", "jinja2", "matplotlib")


def begin_job(root: Path, settings: dict[str, Any], decide: Callable[[dict[str, Any] | None], dict[str, Any]]) -> None:
    """Note what the features in `root` will be of, or go on with those of an earlier start.

    Args:
        root: a directory; made if there is none.
        settings: all that decides the features.
        decide: given what the earlier start decided on its own, or None, returns that or its own decision.

    Raises:
        AlitokError: there are other files, or features of another job.
    """
    path = root / "job.json"
    require_place(root)
    if not path.exists():
        write_json(path, {"kind": "evaluation", "settings": settings, "decided": decide(None)})
        return
    found = _read_job(path)
    before = found["settings"]
    for name in [*settings, *before]:
        if settings.get(name) != before.get(name):
            raise AlitokError(
                f"{root} holds an evaluation of something else ({name} {_told(before.get(name))}, not "
                f"{_told(settings.get(name))}); start over with --fresh, or choose another place with --out."
            )
    decide(found["decided"])


def _foreign(name: str) -> bool:
    return name not in _OWN and not name.startswith(".")


def _told(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}..."


def discard_job(root: Path) -> None:
    """Delete the features of a job, so that another one can be begun.

    Raises:
        AlitokError: what is there was not written by an evaluation.
    """
    path = root / "job.json"
    if path.exists():
        _read_job(path)
        for name in _OUTCOMES:
            (root / name).unlink(missing_ok=True)
        FeatureFiles(root / "features", Blocks(0, 1)).discard()
        path.unlink()
        if not any(root.iterdir()):
            root.rmdir()


def discard_tree(root: Path) -> None:
    """Delete what evaluations left in a directory and below it, and nothing else; it goes if nothing is left.

    Raises:
        AlitokError: a job there was not written by an evaluation.
    """
    if not root.is_dir():
        return
    for job in sorted(root.rglob("job.json"), reverse=True):  # the deepest first
        discard_job(job.parent)
    for folder in (*(root / name for name in _OWN), root):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def require_place(root: Path) -> None:
    """Refuse a directory of other files before hours are spent.

    Raises:
        AlitokError: it holds something that no evaluation wrote.
    """
    if (root / "job.json").exists():
        _read_job(root / "job.json")
    elif root.exists() and (not root.is_dir() or any(_foreign(file.name) for file in root.iterdir())):
        raise AlitokError(f"{root} holds something that `alitok eval` did not write; give another place with --out.")


def _read_job(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or found.get("kind") != "evaluation":
        raise AlitokError(f"{path} was not written by `alitok eval`; give another place with --out.")
    return found


def features_of_images(work: Work, images: Evaluated, root: Path, title: str) -> FeatureFiles:
    """The features of all images, as far as they are not there; all processes call this.

    Args:
        work: of the evaluation.
        images: what is judged.
        root: the directory of their job.
        title: of the progress bar.

    Raises:
        AlitokError: the directory holds another job, or an image cannot be made.
    """
    files = begin_images(work, images, root)
    missing = work.world.on_rank0(files.missing)
    write_features(work, files, missing, images.draw(missing, work.world), title)
    return files


def begin_images(work: Work, images: Evaluated, root: Path) -> FeatureFiles:
    """Note in `root` what is judged, or go on with what an earlier start left; all processes call this.

    Raises:
        AlitokError: the directory holds another job.
    """
    settings = {**images.settings, "features": work.extractor.name, "alitok": __version__}

    def begin() -> dict[str, Any]:
        decided: dict[str, Any] = {}
        if work.fresh:
            discard_job(root)
        begin_job(root, settings, lambda before: decided.update(images.begin(before)) or decided)
        return decided

    decided = images.begin(work.world.on_rank0(begin))
    return FeatureFiles(root / "features", Blocks(images.count, decided["block"]))


def write_features(
    work: Work, files: FeatureFiles, missing: list[int], blocks: Iterable[ImageBlock], title: str, shown: int = 0
) -> None:
    """Take this process' share of what is missing, and wait for the others."""
    total = sum(len(files.blocks[number]) for number in missing[work.world.rank :: work.world.size])
    with progress_bar(work.console, title, total) as bar:
        extract(
            work.extractor,
            blocks,
            files,
            work.world.device,
            shown=shown,
            progress=lambda done: bar.advance(done, {}, total),
        )
    work.world.barrier()


def numbers(compared: Compared, extractor: FeatureExtractor, kind: EvaluationKind) -> dict[str, float]:
    """What was found by name. Only distances in the official Inception's features have the names of published ones."""
    official = extractor.distance == "FID"
    letter = kind[0]
    names = {
        "frechet": f"{letter}fid" if official else "frechet_distance",
        "spatial": "sfid" if official else "spatial_frechet_distance",
        "kernel": "kid" if official else "kernel_distance",
    }
    found = {names["frechet"]: compared.frechet.value}
    if compared.spatial is not None:
        found[names["spatial"]] = compared.spatial
    if official:
        found["inception_score"] = compared.score.mean
    if compared.accuracy is not None:
        found["accuracy"] = compared.accuracy
    if compared.manifold is not None:
        found |= compared.manifold._asdict()
    if compared.kernel is not None:
        found[names["kernel"]] = compared.kernel.mean
    return found


def no_fid(extractor: FeatureExtractor) -> str:
    """What a reader must know of distances in other features than the official Inception's."""
    return (
        f"The features are those of {extractor.name}: these distances are no FID, and are compared only with others in "
        "the same features."
    )


def interval(compared: Compared) -> tuple[float, float] | None:
    """The ends of the Frechet distance's interval; None where there were too few images for one."""
    low, high = compared.frechet.low, compared.frechet.high
    return None if math.isnan(low) else (low, high)
