"""Saved feature statistics of a set of images, which record what they may be compared with."""

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
MAX_FEATURES = 10_000  # images whose features are saved: 82 MB at 2048 each
_FORMAT = "alitok-statistics-1"
_FEATURES = "features"
_MEANING = {
    "generation": "the images that samples should look like, for gFID",
    "reconstruction": "the originals of reconstructions, for rFID",
}


@config
class Provenance:
    """What statistics were computed from; the two kinds answer different questions and are never interchanged.

    Attributes:
        network: name of the feature network, with a hash of its weights where there are several.
        resolution: px, before the network resizes.
        dataset, images: hashes of the dataset and of the subset of its images; empty if unknown.
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
        """Check that these are the expected statistics; None accepts any, as does an unknown dataset.

        Raises:
            AlitokError: one differs.
        """
        if self.kind != kind:
            raise AlitokError(
                f"{source} is a reference for {self.kind} ({_MEANING[self.kind]}), not for {kind} "
                f"({_MEANING[kind]}); use a reference made for {kind}."
            )
        if self.network != network:
            raise AlitokError(
                f"{source} holds features of the network '{self.network}', not '{network}', and the two cannot be "
                "compared; recompute the reference with this network."
            )
        if resolution is not None and self.resolution != resolution:
            raise AlitokError(
                f"{source} is of {self.resolution} px images, not {resolution} px; use a reference of that size."
            )
        if dataset and self.dataset and self.dataset != dataset:
            raise AlitokError(
                f"{source} is of other data (hash {self.dataset}, not {dataset}); use the reference of this "
                "dataset or recompute it."
            )


@dataclass(frozen=True, eq=False)
class Statistics:
    """Feature statistics of a set of images."""

    moments: dict[str, Moments]  # by layer, such as `pool`; all of the same images
    provenance: Provenance
    features: torch.Tensor | None  # `pool` (M, D) float32 of up to `MAX_FEATURES` images, for precision, recall and KID


def save_statistics(
    path: Path, moments: Mapping[str, Moments], provenance: Provenance, features: torch.Tensor | None = None
) -> None:
    """Write an npz file atomically; the arguments are the fields of `Statistics`."""
    counts = {found.count for found in moments.values()}
    assert len(counts) == 1, f"layers of different images: {counts}"
    count = counts.pop()
    about = {"format": _FORMAT, "count": count, "provenance": to_dict(provenance)}
    arrays = {"about": np.array(json.dumps(about))}
    for name, found in moments.items():
        arrays[f"{name}/mean"] = found.mean.cpu().numpy()
        arrays[f"{name}/products"] = found.products.cpu().numpy()
    if features is not None:
        saved = features.detach().cpu().to(torch.float32).numpy()
        assert _fit(saved, count, moments["pool"].dimensions), (saved.shape, count)
        arrays[_FEATURES] = saved
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
        raise AlitokError(f"{path} is damaged or not an npz file; restore it or recompute it.") from None
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
            f"{path} does not hold statistics of this version of alitok; use another file or recompute it."
        ) from None
    pool = None if features is None else torch.from_numpy(features)
    return Statistics(moments, from_dict(Provenance, head, str(path)), pool)


def _fit(features: np.ndarray, count: int, dimensions: int) -> bool:
    right = features.ndim == 2 and features.dtype == np.float32 and features.shape[1] == dimensions
    return right and 0 < len(features) <= min(count, MAX_FEATURES) and bool(np.isfinite(features).all())


def _moments(count: int, mean: np.ndarray, products: np.ndarray) -> Moments:
    if products.shape != (len(mean), len(mean)) or not (np.isfinite(mean).all() and np.isfinite(products).all()):
        raise ValueError(products.shape)
    return Moments.of(count, torch.from_numpy(mean), torch.from_numpy(products))
