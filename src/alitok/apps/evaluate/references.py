"""What samples are compared with: ADM's reference, saved statistics, or real images, each only where it belongs.

Enters: what the user wrote for the reference. Leaves: a `Reference`, or one sentence why it is not the right one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alitok.apps.evaluate.job import EvaluationKind, Work, features_of_images
from alitok.apps.evaluate.originals import choose
from alitok.apps.evaluate.samples import StoredImages
from alitok.core.console import Reporter, reporter
from alitok.core.errors import AlitokError
from alitok.core.files import sha256
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.opening import open_splits
from alitok.data.split import Splits
from alitok.data.survey import short_side
from alitok.metrics.adm import is_statistics, load_adm
from alitok.metrics.inception import OFFICIAL
from alitok.metrics.reference import MAX_FEATURES, load_statistics
from alitok.metrics.set_distance import Seen, Target, gather
from alitok.run.originals import SplitName

_FOR_GENERATION = (
    "is a reference for generation (the images that samples should look like, for gFID), but this is about "
    "reconstruction (the validation images whose reconstructions are judged, for rFID); the two numbers cannot be "
    "compared. Leave --reference out: the validation images of --data are the reference."
)


@dataclass(frozen=True)
class Reference:
    """What images are compared with, and where it is from.

    Attributes:
        target: its statistics.
        about: facts for `evaluation.json`.
    """

    target: Target
    about: dict[str, Any]


def open_reference(asked: str, kind: EvaluationKind, work: Work, size: int, dataset: str | None = None) -> Reference:
    """The reference that the user named; all processes call this.

    Args:
        asked: ADM's npz, an npz of saved statistics, or any source of images.
        kind: which question it should answer.
        work: of the evaluation.
        size: pixels a side of the images that are judged.
        dataset: hash of the data that it should be of; None accepts any.

    Raises:
        AlitokError: it is missing, damaged, of other features or another size, or answers the other question.
    """
    path = Path(asked).expanduser()
    if path.suffix.lower() != ".npz":
        if kind == "reconstruction":
            raise AlitokError(
                f"--reference {asked} is no saved statistics; name the images that are reconstructed with --data."
            )
        return _of_images(asked, work, size)
    if is_statistics(path):
        return _of_statistics(path, kind, work, size, dataset)
    if kind == "reconstruction":
        raise AlitokError(f"{asked} {_FOR_GENERATION}")
    return _of_adm(path, work, size)


def _of_statistics(path: Path, kind: EvaluationKind, work: Work, size: int, dataset: str | None) -> Reference:
    found = load_statistics(path)
    found.provenance.require(path, kind=kind, network=work.extractor.name, resolution=size, dataset=dataset)
    spatial = found.moments.get("spatial")
    target = Target(found.moments["pool"].gaussian(), None if spatial is None else spatial.gaussian(), found.features)
    about = {
        "path": str(path),
        "sha256": sha256(path),
        "images": found.moments["pool"].count,
        "data": found.provenance.dataset,
        "keys": found.provenance.images,
    }
    return Reference(target, about)


def _of_adm(path: Path, work: Work, size: int) -> Reference:
    """ADM's statistics as they are; features of its images, for precision, recall and KID, are taken here."""
    found = load_adm(path)
    if found.pool is not None and work.extractor.name != OFFICIAL:
        raise AlitokError(
            f"{path} holds statistics of the official Inception's features, not of '{work.extractor.name}'; use the "
            "official weights, or give a folder of images as the reference."
        )
    if found.images is None:
        assert found.pool is not None, "else it would have been refused"
        target = Target(found.pool, found.spatial, None)
        return Reference(target, {"path": str(path), "sha256": sha256(path), "adm": True})
    images = found.images
    if images.side != size:
        raise AlitokError(
            f"{path} is of images of {images.side} pixels a side, not {size} as those that are judged; give a "
            "reference of that size."
        )
    settings = {"images": images.fingerprint(), "count": images.count}
    judged = StoredImages(str(path), images.count, size, (), settings, images.read, None)
    seen = seen_of(work, judged)
    target = target_of(seen)
    if found.pool is not None:
        target = Target(found.pool, found.spatial, target.features)
    return Reference(
        target,
        {
            "path": str(path),
            "sha256": sha256(path),
            "images": images.count,
            "adm": found.pool is not None,
        },
    )


def _of_images(asked: str, work: Work, size: int) -> Reference:
    """All images of a source through the crop of training."""
    say = reporter(work.console)
    require_large(asked, size, say)
    splits = open_splits(asked, size, 0, say)
    return of_splits(asked, splits, "train" if asked in BUILTIN else "all", work)


def of_splits(asked: str, splits: Splits, split: SplitName, work: Work) -> Reference:
    """Statistics of the fixed views of a split."""
    judged = source_images(asked, splits, split)
    seen = seen_of(work, judged)
    return Reference(
        target_of(seen), {"data": asked, "split": split, "contents": splits.contents, "images": judged.count}
    )


def require_large(data: str, size: int, say: Reporter | None = None) -> None:
    """Refuse images that would have to be enlarged: what is judged would be compared with blurred ones.

    Raises:
        AlitokError: most images of the data are smaller than `size` pixels.
    """
    if data not in BUILTIN and (side := short_side(data, say)) < size:
        raise AlitokError(
            f"Most images of {data} have about {side:.0f} pixels, fewer than the {size} of those that are judged; "
            "give a reference of that resolution."
        )


def source_images(name: str, splits: Splits, split: SplitName) -> StoredImages:
    """The fixed views of a split as images to judge."""
    chosen = choose(splits, split, None, 0)
    return StoredImages(
        f"{name}, {split}",
        len(chosen),
        splits.train.size,
        chosen.classes,
        {"images": splits.contents, "keys": chosen.keys, "count": len(chosen), "size": splits.train.size},
        chosen.read,
        chosen.labels,
    )


def seen_of(work: Work, images: StoredImages) -> Seen:
    """Statistics of a reference's images; each reference has a folder of its own, so that several can be tried."""
    about = json.dumps([images.settings, work.extractor.name], sort_keys=True)
    place = work.root / "reference" / hashlib.sha256(about.encode()).hexdigest()[:12]
    files = features_of_images(work, images, place, "features of the reference")
    return gather(files, work.world, most_kept=MAX_FEATURES)


def target_of(seen: Seen) -> Target:
    """What was seen of a set, as what another one is compared with."""
    spatial = None if seen.spatial is None else seen.spatial.gaussian()
    return Target(seen.pool.total().gaussian(), spatial, seen.features)
