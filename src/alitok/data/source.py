"""The one interface of all picture sources, and how a source is found by what the user wrote.

Enters: `digits`, `photos` or a folder. Leaves: two sources, of pictures (3, size, size) uint8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from alitok.core.errors import AlitokError
from alitok.data.builtin import open_digits, open_photos
from alitok.data.folder import open_folder


class ImageSource(Protocol):
    """A fixed number of labelled square pictures.

    Attributes:
        name: for people, such as "digits train".
        classes: the class names; a label is an index into them.
        labels: (N,) int64.
        size: pixels a side.
        flip: whether a mirrored picture is still one of its class.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    size: int
    flip: bool

    def __len__(self) -> int:
        """Number of pictures in an epoch."""
        ...

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """One picture.

        Args:
            index: 0 <= index < N.
            rng: draws the random crop and flip of training; None gives the fixed view.

        Returns:
            (3, size, size) uint8, contiguous.

        Raises:
            AlitokError: the picture cannot be read.
        """
        ...

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Read every picture once, where one can be broken.

        Args:
            progress: called with the number of pictures done after each picture.

        Raises:
            AlitokError: some cannot be decoded; the message names them.
        """
        ...


@dataclass(frozen=True)
class Splits:
    """What a model is trained on, and what it never sees; both have the same classes and size.

    Attributes:
        train: the pictures for training.
        heldout: the pictures for looking and measuring.
        name: the built-in set, or the folder's full path.
        contents: a hash that changes when pictures are added, removed, renamed or of another size on disk.
    """

    train: ImageSource
    heldout: ImageSource
    name: str
    contents: str


_BUILTIN: dict[str, Callable[[int, int], tuple[ImageSource, ImageSource]]] = {
    "digits": open_digits,
    "photos": open_photos,
}


def open_splits(data: str, size: int, seed: int = 0) -> Splits:
    """Open a data set.

    Args:
        data: the name of a built-in set, or a folder with one folder of pictures per class.
        size: pixels a side of the pictures that leave.
        seed: decides which pictures are held out.

    Raises:
        AlitokError: there is no such data set, or its pictures cannot be used.
    """
    if data in _BUILTIN:
        return Splits(*_BUILTIN[data](size, seed), data, data)
    root = Path(data).expanduser().resolve()
    if not data:
        raise AlitokError("The name of the data is empty; give digits, photos or a folder.")
    if not root.exists():
        raise AlitokError(
            f"Data {data!r}: the path does not exist, and the built-in sets are {' and '.join(_BUILTIN)}; "
            "check the path or choose one of them."
        )
    train, heldout = open_folder(root, size, seed)
    files = sorted(train.files + heldout.files)
    listing = "\n".join(f"{file.relative_to(root).as_posix()} {file.stat().st_size}" for file in files)
    return Splits(train, heldout, str(root), hashlib.sha256(listing.encode()).hexdigest()[:16])
