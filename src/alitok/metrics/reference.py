"""Saved statistics of a set of images, which know what they may be compared with.

Enter: `Moments` by the name of the network's layer, a `Provenance`, and features of some of the images. Leaves: one
npz file, and back; or one clear sentence why these statistics are not those that were wanted.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from alitok.core.config import config, from_dict, to_dict
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path
from alitok.metrics.moments import Moments

Kind = Literal["generation", "reconstruction"]
MAX_FEATURES = 10_000  # images whose features are kept; at 2048 each 82 MB
_FORMAT = "alitok-statistics-1"
_FEATURES = "features"
_MEANING = {
    "generation": "the images that samples should look like, for gFID",
    "reconstruction": "the validation images whose reconstructions are judged, for rFID",
}


@config
class Provenance:
    """What statistics were taken of.

    Attributes:
        kind: which question the images answer; the two give different numbers and are never exchanged.
        network: name of the feature network, with its weights' hash where there are several.
        resolution: side of the images in pixels, before the network resizes them.
        dataset: hash of the data set; empty where it is unknown.
        images: hash of which of its images; likewise.
    """

    kind: Kind
    network: str
    resolution: int
    dataset: str = ""
    images: str = ""

    def require(
        self,
        source: object,
        *,
        kind: Kind,
        network: str,
        resolution: int | None = None,
        dataset: str | None = None,
    ) -> None:
        """Check that these statistics are those wanted; None accepts any, and so does an unknown data set.

        Args:
            source: where they came from, named in the error.
            kind: see `Provenance`, as are the others.
            network: the same.
            resolution: the same.
            dataset: the same.

        Raises:
            AlitokError: one differs; it says which, why it matters and what to do.
        """
        if self.kind != kind:
            raise AlitokError(
                f"{source} is a reference for {self.kind} ({_MEANING[self.kind]}), but this is about {kind} "
                f"({_MEANING[kind]}); the two numbers cannot be compared, so give a reference made for {kind}."
            )
        if self.network != network:
            raise AlitokError(
                f"{source} holds features of the network '{self.network}', not '{network}'; distances between features "
                "of two networks mean nothing, so make the reference anew with this network."
            )
        if resolution is not None and self.resolution != resolution:
            raise AlitokError(
                f"{source} is of images of {self.resolution} pixels a side, not {resolution}; give a reference of "
                "that size."
            )
        if dataset and self.dataset and self.dataset != dataset:
            raise AlitokError(
                f"{source} was made from other data (hash {self.dataset}, not {dataset}); give the reference of this "
                "data set or make it anew."
            )


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is kept of a set of images.

    Attributes:
        moments: by the name of the layer, such as `pool`; all of the same images.
        provenance: what they were taken of; `Provenance.require` checks it.
        features: the `pool` features (M, D) float32 of up to `MAX_FEATURES` of the images, for precision, recall and
            KID; None where they were not kept.
    """

    moments: dict[str, Moments]
    provenance: Provenance
    features: torch.Tensor | None


def save_statistics(
    path: Path, moments: Mapping[str, Moments], provenance: Provenance, features: torch.Tensor | None = None
) -> None:
    """Write statistics as an npz file, whole or not at all; the arguments are the fields of `Statistics`."""
    counts = {found.count for found in moments.values()}
    assert len(counts) == 1, f"layers of different images: {counts}"
    count = counts.pop()
    about = {"format": _FORMAT, "count": count, "provenance": to_dict(provenance)}
    arrays = {"about": np.array(json.dumps(about))}
    for name, found in moments.items():
        arrays[f"{name}/mean"] = found.mean.cpu().numpy()
        arrays[f"{name}/products"] = found.products.cpu().numpy()
    if features is not None:
        kept = features.detach().cpu().to(torch.float32).numpy()
        assert _fit(kept, count, moments["pool"].dimensions), (kept.shape, count)
        arrays[_FEATURES] = kept
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # a name might be allow_pickle, mypy fears


def load_statistics(path: Path) -> Statistics:
    """Read what `save_statistics` wrote.

    Raises:
        AlitokError: the file is missing, damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise AlitokError(f"{path} does not exist; check the path.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError):
        raise AlitokError(f"{path} is damaged or no npz file; restore it or make it anew.") from None
    try:
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != _FORMAT:
            raise KeyError(about["format"])
        features = arrays.pop(_FEATURES, None)
        names = sorted({name.rpartition("/")[0] for name in arrays})
        moments = {name: _moments(about["count"], arrays[f"{name}/mean"], arrays[f"{name}/products"]) for name in names}
        if features is not None and not _fit(features, about["count"], moments["pool"].dimensions):
            raise ValueError(features.shape)
        head = about["provenance"]
    except (KeyError, TypeError, ValueError):
        raise AlitokError(
            f"{path} holds no statistics that alitok wrote, or of another version; give another file or make it anew."
        ) from None
    kept = None if features is None else torch.from_numpy(features)
    return Statistics(moments, from_dict(Provenance, head, str(path)), kept)


def _fit(features: np.ndarray, count: int, dimensions: int) -> bool:
    """Whether these are features (M, D) of some of the images."""
    right = features.ndim == 2 and features.dtype == np.float32 and features.shape[1] == dimensions
    return right and 0 < len(features) <= min(count, MAX_FEATURES) and bool(np.isfinite(features).all())


def _moments(count: int, mean: np.ndarray, products: np.ndarray) -> Moments:
    if products.shape != (len(mean), len(mean)) or not (np.isfinite(mean).all() and np.isfinite(products).all()):
        raise ValueError(products.shape)
    return Moments.of(count, torch.from_numpy(mean), torch.from_numpy(products))
