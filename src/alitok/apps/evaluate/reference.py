"""References to compare with: ADM's statistics, saved statistics, or real images, each only for its own question.

`alitok eval reference` saves the statistics of real images in one file, so that evaluations no longer need the images.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from alitok.apps.evaluate.images import StoredImages, choose, usable_images
from alitok.apps.evaluate.job import Work, begin_images, discard_tree, open_extractor, write_features
from alitok.apps.evaluate.options import EvaluationKind, ReferenceOptions
from alitok.core.choices import SplitName
from alitok.core.console import Reporter, reporter
from alitok.core.distributed import join
from alitok.core.errors import AlitokError
from alitok.core.files import sha256
from alitok.core.system import stoppable
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.opening import open_splits
from alitok.data.split import Splits
from alitok.data.survey import short_side
from alitok.metrics.adm import is_statistics, load_adm
from alitok.metrics.inception import OFFICIAL
from alitok.metrics.reference import MAX_FEATURES, Provenance, load_statistics, save_statistics
from alitok.metrics.set_distance import SetStatistics, Target, gather

_KINDS: dict[SplitName, EvaluationKind] = {"train": "generation", "val": "reconstruction"}


def run_eval_reference(data: str, options: ReferenceOptions) -> None:
    """Save the statistics of `data`, or resume that; every process calls this.

    AlitokError where the data or the weights cannot be used, or an option is out of its range.
    """
    if options.out.suffix.lower() != ".npz":
        raise AlitokError(f"--out {options.out} must end in .npz.")
    if options.size < 1:
        raise AlitokError(f"--size must be at least 1, not {options.size}.")
    kind = options.kind or _KINDS.get(options.split)
    if kind is None:
        raise AlitokError("--split all needs --kind: is the reference for generation or reconstruction?")
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        require_large(data, options.size, reporter(console))
        needed: SplitName = "all" if options.features == "classifier" else options.split
        splits, _ = usable_images(data, options.size, options.seed, needed, world, console)
        extractor = open_extractor(options.features, options.inception_weights, splits, world, console)
        beside = options.out.with_suffix(".parts")
        images = source_images(data, splits, options.split)
        found = statistics_of(Work(extractor, world, console, beside, options.fresh), images)

        def write() -> None:
            moments = {"pool": found.pool.total()}
            if found.spatial is not None:
                moments["spatial"] = found.spatial
            about = Provenance(
                kind=kind,
                network=extractor.name,
                resolution=options.size,
                dataset=splits.contents,
                images=images.settings["keys"],
            )
            save_statistics(options.out, moments, about, found.features)
            discard_tree(beside)
            reporter(console)(f"{found.count:,} images, for {kind}: {options.out}")

        world.on_rank0(write)


@dataclass(frozen=True)
class Reference:
    """What images are compared with, and facts about it for `evaluation.json`."""

    target: Target
    about: dict[str, Any]


def open_reference(name: str, kind: EvaluationKind, work: Work, size: int, dataset: str | None = None) -> Reference:
    """The reference: ADM's npz, saved statistics or any source of images, of `size` px; all processes call this.

    `dataset` is the hash of the data that it must be of; None accepts any. AlitokError where the file is missing,
    damaged, of other features or another size, or for the other question.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() != ".npz":
        if kind == "reconstruction":
            raise AlitokError(
                f"--reference {name} is not a file of saved statistics; give the images to reconstruct with --data."
            )
        return _of_images(name, work, size)
    if is_statistics(path):
        return _of_statistics(path, kind, work, size, dataset)
    if kind == "reconstruction":
        raise AlitokError(
            f"{name} is a reference for generation (gFID), but this is about reconstruction (rFID). Leave --reference "
            "out: the validation images of --data are the reference."
        )
    return _of_adm(path, work, size)


def _of_statistics(path: Path, kind: EvaluationKind, work: Work, size: int, dataset: str | None) -> Reference:
    found = load_statistics(path)
    found.provenance.require(path, kind=kind, network=work.extractor.name, resolution=size, dataset=dataset)
    pool, spatial = found.moments["pool"], found.moments.get("spatial")
    target = Target(pool.gaussian(), None if spatial is None else spatial.gaussian(), found.features)
    facts = {"images": pool.count, "data": found.provenance.dataset, "keys": found.provenance.images}
    return Reference(target, {"path": str(path), "sha256": sha256(path), **facts})


def _of_adm(path: Path, work: Work, size: int) -> Reference:
    """ADM's statistics as they are; features of its images, for precision, recall and KID, are computed here."""
    found = load_adm(path)
    if found.pool is not None and work.extractor.name != OFFICIAL:
        raise AlitokError(
            f"{path} holds statistics of the official Inception's features, not of '{work.extractor.name}'; use the "
            "official weights, or give a folder of images as the reference."
        )
    if found.images is None:
        assert found.pool is not None
        target = Target(found.pool, found.spatial, None)
        return Reference(target, {"path": str(path), "sha256": sha256(path), "adm": True})
    images = found.images
    if images.side != size:
        raise AlitokError(
            f"{path} holds images of {images.side} px, not {size} px as the evaluated ones; give a reference of that "
            "size."
        )
    settings = {"images": images.fingerprint(), "count": images.count}
    stored = StoredImages(str(path), images.count, size, (), settings, images.read, None)
    target = target_of(statistics_of(work, stored))
    if found.pool is not None:
        target = Target(found.pool, found.spatial, target.features)
    about = {"path": str(path), "sha256": sha256(path), "images": images.count, "adm": found.pool is not None}
    return Reference(target, about)


def _of_images(data: str, work: Work, size: int) -> Reference:
    say = reporter(work.console)
    require_large(data, size, say)
    splits = open_splits(data, size, 0, say)
    return of_splits(data, splits, "train" if data in BUILTIN else "all", work)


def of_splits(data: str, splits: Splits, split: SplitName, work: Work) -> Reference:
    """Statistics of a split, center-cropped."""
    images = source_images(data, splits, split)
    about = {"data": data, "split": split, "contents": splits.contents, "images": images.count}
    return Reference(target_of(statistics_of(work, images)), about)


def require_large(data: str, size: int, say: Reporter | None = None) -> None:
    """AlitokError where most images are smaller than `size` pixels: enlarging blurs them."""
    if data not in BUILTIN and (side := short_side(data, say)) < size:
        raise AlitokError(
            f"Most images of {data} are about {side:.0f} px, smaller than the evaluated {size} px; give a reference of "
            "that size."
        )


def source_images(name: str, splits: Splits, split: SplitName) -> StoredImages:
    """A split, center-cropped, as images to compute features of."""
    chosen, size = choose(splits, split, None, 0), splits.train.size
    settings = {"images": splits.contents, "keys": chosen.keys, "count": len(chosen), "size": size}
    name = f"{name}, {split}"
    return StoredImages(name, len(chosen), size, chosen.classes, settings, chosen.read, chosen.labels)


def statistics_of(work: Work, images: StoredImages) -> SetStatistics:
    """Statistics of a reference's images; each reference has a directory of its own, so that several can be tried."""
    about = json.dumps([images.settings, work.extractor.name], sort_keys=True)
    place = work.root / "reference" / hashlib.sha256(about.encode()).hexdigest()[:12]
    files = write_features(work, begin_images(work, images, place), images, "features of the reference")
    return gather(files, work.world, max_features=MAX_FEATURES)


def target_of(found: SetStatistics) -> Target:
    """Statistics of a set as the target of another one."""
    spatial = None if found.spatial is None else found.spatial.gaussian()
    return Target(found.pool.total().gaussian(), spatial, found.features)
