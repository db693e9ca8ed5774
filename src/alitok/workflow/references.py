"""What samples are compared with: ADM's reference, saved statistics, or real pictures, each only where it belongs.

Enters: what the user wrote for the reference. Leaves: a `Reference`, or one sentence why it is not the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alitok.core.errors import AlitokError
from alitok.core.files import sha256
from alitok.data.builtin import BUILTIN
from alitok.data.decode import in_threads, without_remarks
from alitok.data.source import SIZES, ImageSource, look_at, open_splits
from alitok.jobs.evaluate import Seen, Target, gather
from alitok.metrics.adm import is_statistics, load_adm
from alitok.metrics.inception import OFFICIAL
from alitok.metrics.reference import MOST_FEATURES, load_statistics
from alitok.workflow.evaluated import FilePictures
from alitok.workflow.evaluation import EvaluationKind, Work, features_of_pictures
from alitok.workflow.pictures import say_on

_FOR_GENERATION = (
    "is a reference for generation (the pictures that samples should look like, for gFID), but this is about "
    "reconstruction (the held-out pictures whose reconstructions are judged, for rFID); the two numbers cannot be "
    "compared. Leave --reference out: the held-out pictures of --data are the reference."
)


@dataclass(frozen=True)
class Reference:
    """What pictures are compared with, and where it is from.

    Attributes:
        target: its statistics.
        about: facts for `evaluation.json`.
    """

    target: Target
    about: dict[str, Any]


def open_reference(asked: str, kind: EvaluationKind, work: Work, size: int, dataset: str | None = None) -> Reference:
    """The reference that the user named; all processes call this.

    Args:
        asked: ADM's npz, an npz of saved statistics, or any source of pictures.
        kind: which question it should answer.
        work: of the evaluation.
        size: pixels a side of the pictures that are judged.
        dataset: hash of the data that it should be of; None accepts any.

    Raises:
        AlitokError: it is missing, damaged, of other features or another size, or answers the other question.
    """
    path = Path(asked).expanduser()
    if path.suffix.lower() != ".npz":
        if kind == "reconstruction":
            raise AlitokError(
                f"--reference {asked} is no saved statistics; name the pictures that are reconstructed with --data."
            )
        return _of_pictures(asked, work, size)
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
        "path": str(path.resolve()),
        "sha256": sha256(path),
        "pictures": found.moments["pool"].count,
        "data": found.provenance.dataset,
    }
    return Reference(target, about)


def _of_adm(path: Path, work: Work, size: int) -> Reference:
    """ADM's statistics as they are; features of its pictures, for precision, recall and KID, are taken here."""
    found = load_adm(path)
    if found.pool is not None and work.extractor.name != OFFICIAL:
        raise AlitokError(
            f"{path} holds statistics of the official Inception's features, not of '{work.extractor.name}'; use the "
            "official weights, or give a folder of pictures as the reference."
        )
    if found.pictures is None:
        if found.pool is None:
            raise AlitokError(f"{path} holds neither mu and sigma nor pictures (arr_0); give another reference.")
        target = Target(found.pool, found.spatial, None)
        return Reference(target, {"path": str(path.resolve()), "sha256": sha256(path), "adm": True})
    pictures = found.pictures
    if pictures.side != size:
        raise AlitokError(
            f"{path} is of pictures of {pictures.side} pixels a side, not {size} as those that are judged; give a "
            "reference of that size."
        )
    settings = {"pictures": pictures.fingerprint(), "count": pictures.count}
    judged = FilePictures(str(path), pictures.count, size, (), settings, pictures.read, None)
    seen = seen_of(work, judged, "reference")
    target = target_of(seen)
    if found.pool is not None:
        target = Target(found.pool, found.spatial, target.features)
    return Reference(
        target,
        {
            "path": str(path.resolve()),
            "sha256": sha256(path),
            "pictures": pictures.count,
            "adm": found.pool is not None,
        },
    )


def _of_pictures(asked: str, work: Work, size: int) -> Reference:
    """All pictures of a source through the crop of training."""
    say = say_on(work.console)
    if asked not in BUILTIN:
        fits = look_at(asked, say=say).image_size
        if fits < min(size, SIZES[-1]):  # a look tells no more than that
            raise AlitokError(
                f"Most pictures of {asked} are smaller than {size} pixels, the size of those that are judged; give a "
                "reference of that resolution."
            )
    splits = open_splits(asked, size, 0, say)
    if asked in BUILTIN:
        return of_source(splits.train, splits.contents, work)
    return of_source(splits.train, splits.contents, work, splits.heldout)


def of_source(source: ImageSource, contents: str, work: Work, more: ImageSource | None = None) -> Reference:
    """Statistics of the fixed views of a source, and of another one."""
    judged = source_pictures(source, contents, more)
    seen = seen_of(work, judged, "reference")
    return Reference(target_of(seen), {"data": judged.name, "contents": contents, "pictures": judged.count})


def source_pictures(source: ImageSource, contents: str, more: ImageSource | None = None) -> FilePictures:
    """The fixed views of a source, and of another one behind it, as pictures to judge."""
    sources = [source] if more is None else [source, more]
    count = sum(map(len, sources))

    def one(row: int) -> np.ndarray:
        first = len(sources[0])
        return sources[0].read(row, None) if row < first else sources[1].read(row - first, None)

    def read(rows: range) -> np.ndarray:
        with without_remarks():
            return np.stack(list(in_threads(one, rows)))

    return FilePictures(
        " and ".join(each.name for each in sources),
        count,
        source.size,
        source.classes,
        {"pictures": contents, "sources": [each.name for each in sources], "count": count, "size": source.size},
        read,
        np.concatenate([each.labels for each in sources]),
    )


def seen_of(work: Work, pictures: FilePictures, place: str) -> Seen:
    """Statistics of pictures whose features lie in a folder of the evaluation."""
    files = features_of_pictures(work, pictures, work.root / place, f"features of {place}")
    return gather(files, work.world)


def target_of(seen: Seen) -> Target:
    """What was seen of a set, as what another one is compared with."""
    spatial = None if seen.spatial is None else seen.spatial.gaussian()
    return Target(seen.pool.total().gaussian(), spatial, seen.features)


def some_features(features: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """At most as many rows (M, D) as are saved with statistics, drawn at random."""
    if len(features) <= MOST_FEATURES:
        return features
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST_FEATURES])
    return features[torch.from_numpy(rows)]
