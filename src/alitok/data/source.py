"""The one interface of all picture sources, and how a source is found by what the user wrote.

Enters: `digits`, `photos` or a folder. Leaves: two sources, of pictures (3, size, size) uint8, and all stored views
of a source in order. Shapes: B views of a batch, C views of a picture, N pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from alitok.core.errors import AlitokError
from alitok.data.builtin import open_digits, open_photos
from alitok.data.crops import CropRecipe
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

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """The views of one picture whose codes are stored, the same at every call.

        Args:
            index: 0 <= index < N.
            recipe: `centre` is the fixed view of `read`; `flip` adds its mirror image; `ten` is four corners and the
                centre at 1.1 x, or five places drawn once where a source has no whole picture, and then the same five
                mirrored. Mirror images are left out where `flip` is false, and a source whose `read` draws nothing
                from `rng` has its fixed view only.

        Returns:
            (C, 3, size, size) uint8, contiguous; C is the same for all pictures, see `crops_per_picture`.

        Raises:
            AlitokError: the picture cannot be read.
        """
        ...

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> None:
        """Read every picture once, where one can be broken.

        Args:
            progress: called with the number of pictures done after each picture.
            part: number of this process and of all; each reads its share.

        Raises:
            AlitokError: some cannot be decoded; the message names them.
        """
        ...


def crops_per_picture(source: ImageSource, recipe: CropRecipe) -> int:
    """C, the number of views that a recipe makes of each picture; reads the first picture.

    Raises:
        AlitokError: the first picture cannot be read.
    """
    return len(source.views(0, recipe))


def view_batches(
    source: ImageSource, recipe: CropRecipe, batch_size: int = 256
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All views of picture 0, then of picture 1, and so on, as a code store orders its rows.

    Returns:
        Views (B, 3, size, size) uint8 and the labels of their pictures (B,) int64; only the last batch is shorter
        than `batch_size`.

    Raises:
        AlitokError: while iterating, a picture cannot be read.
    """
    rows = ((view, label) for index, label in enumerate(source.labels) for view in source.views(index, recipe))
    while block := list(islice(rows, batch_size)):
        views, labels = zip(*block, strict=True)
        yield np.stack(views), np.stack(labels)


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
