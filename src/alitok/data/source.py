"""The one interface of all image sources, and how a source is found by what the user wrote.

Enters: one of the forms below. Leaves: two sources, of images (3, size, size) uint8.
Shapes: C views of an image, N images.

    digits, photos                    images that come with libraries
    FOLDER                            one folder per class, images at any depth below it
                                      or: images and a file that labels them, see `labelled`
                                      or: images only, which are one class
                                      or: train/ and one of val/, valid/, validation/, test/, each of these forms
    labels.csv, .json, .jsonl         a labels file itself; paths in it are relative to its own folder
    x.tar, shards/*.tar,              tar archives, as WebDataset writes them or with one folder per class
    train-{000..012}.tar, FOLDER      a folder of archives
    https://.../{000..012}.tar,       archives elsewhere, fetched into the cache when their images are wanted;
    s3://...                          any address that fsspec knows
    x.parquet, x.arrow, FOLDER        Hugging Face tables, one or several, or what `save_to_disk` wrote
    hf:owner/name                     a data set of the Hugging Face hub

A split that the data brings is kept: folders, files or splits called train and val (or valid, validation, test).
Otherwise a tenth of each class is held out, by the seed. Options follow a question mark, as in
`hf:owner/name?label=kind&streaming=1`:

    val=    the archives, files or split of validation images
    split=      the split for training, of a data set that has several
    image=      the column of images, and label= that of classes, where they are not plain to see
    config=     which of its configurations, of a data set of the hub
    streaming=1 do not load the data set whole: write the stream to archives in the cache, once
    mirror=0    of any of these but the built-in sets: a mirrored image is none of its class, so none is made
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from alitok.core.errors import AlitokError
from alitok.core.words import counted
from alitok.data.builtin import BUILTIN
from alitok.data.crops import CropRecipe
from alitok.data.decode import header_size, in_threads, without_remarks
from alitok.data.images import Broken, Images, require_training_classes
from alitok.data.opening import full_name, may_be_mirrored, open_images
from alitok.data.reading import DecodedSource
from alitok.data.split import val_mask
from alitok.data.tar import Say

MOST_BROKEN = 0.01  # of all images; with more, something is wrong with the data as a whole
SIZES = (16, 32, 64, 128, 256)  # pixels a side that `suggest_size` chooses from
_VAL = 0.1
_LOOKED_AT, _LOOKED_AT_GROUPS = 256, 4  # images whose headers a first look reads, and groups they are from
_NAMED = 10  # broken images that one message names


class ImageSource(Protocol):
    """A fixed number of labelled square images.

    Attributes:
        name: for people, such as "digits train".
        classes: the class names; a label is an index into them.
        labels: (N,) int64.
        size: pixels a side.
        flip: whether a mirrored image is still one of its class.
        groups: (N,) integers, equal for images that should be read at about the same time; None where any order is
            as good as any other.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    size: int
    flip: bool
    groups: np.ndarray | None

    def __len__(self) -> int:
        """Number of images in an epoch."""
        ...

    def key(self, index: int) -> str:
        """The name of an image: unique, and the same whatever other images are left out."""
        ...

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """One image.

        Args:
            index: 0 <= index < N.
            rng: draws the random crop and flip of training; None gives the fixed view.

        Returns:
            (3, size, size) uint8, contiguous.

        Raises:
            AlitokError: the image cannot be read.
        """
        ...

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """The views of one image whose codes are stored, the same at every call.

        Args:
            index: 0 <= index < N.
            recipe: `centre` is the fixed view of `read`; `flip` adds its mirror image; `ten` is four corners and the
                centre at 1.1 x, or five places drawn once where a source has no whole image, and then the same five
                mirrored. Mirror images are left out where `flip` is false, and a source whose `read` draws nothing
                from `rng` has its fixed view only.

        Returns:
            (C, 3, size, size) uint8, contiguous; C is the same for all images, see `crops_per_image`.

        Raises:
            AlitokError: the image cannot be read.
        """
        ...

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        """Read every image once, where one can be broken.

        Args:
            progress: called with the number of images done after each image.
            part: number of this process and of all; each reads its share.

        Returns:
            Those of this process's share that cannot be used; `check_broken` says whether they are too many.

        Raises:
            AlitokError: no image can be read, as when the network is gone.
        """
        ...

    def without(self, keys: Collection[str]) -> ImageSource:
        """The same images in the same order, without those named by `keys`; keys of others do no harm."""
        ...


def fixed_views(source: ImageSource, rows: Iterable[int]) -> np.ndarray:
    """The fixed views (n, 3, size, size) uint8 of some images, several read at a time.

    Raises:
        AlitokError: one cannot be read.
    """
    wanted = [int(row) for row in rows]
    whole = np.empty((len(wanted), 3, source.size, source.size), np.uint8)
    with without_remarks():
        for place, view in enumerate(in_threads(lambda row: source.read(row, None), wanted)):
            if not place and view.dtype != whole.dtype:  # a source at fault: the preflight tells its values
                whole = whole.astype(view.dtype)
            whole[place] = view
    return whole


def crops_per_image(source: ImageSource, recipe: CropRecipe) -> int:
    """C, the number of views that a recipe makes of each image; reads the first image.

    Raises:
        AlitokError: the first image cannot be read.
    """
    return len(source.views(0, recipe))


@dataclass(frozen=True)
class Splits:
    """What a model is trained on, and what it never sees; both have the same classes and size.

    Attributes:
        train: the images for training.
        val: the images for looking and measuring.
        name: the built-in set, or where the data is.
        contents: a hash that changes when images are added, removed, renamed, labelled anew or of another size on
            disk; it tells nothing of what `without` left out.
        notes: sentences on what was found and is not used, for people.
    """

    train: ImageSource
    val: ImageSource
    name: str
    contents: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images of both."""
        return len(self.train) + len(self.val)

    def without(self, keys: Collection[str]) -> Splits:
        """The same without the images named by `keys`, such as those that `verify` found to be broken."""
        return replace(self, train=self.train.without(keys), val=self.val.without(keys)) if keys else self


def check_broken(broken: Sequence[Broken], splits: Splits) -> None:
    """Decide whether a training may go on without its broken images.

    Args:
        broken: all that `verify` of both sources found, over all processes.
        splits: the images as they were opened, broken ones included.

    Raises:
        AlitokError: they are more than a hundredth of all images, or without them a class has none for training or
            nothing is held out; the message names them.
    """
    share = len(broken) / max(len(splits), 1)
    if share > MOST_BROKEN:
        raise AlitokError(
            f"{len(broken):,} of {len(splits):,} images of {splits.name} cannot be used, {share:.1%}, and at most "
            f"{MOST_BROKEN:.0%} may be left out; replace or remove them:\n{list_broken(broken)}"
        )
    if not broken:
        return
    rest = splits.without({image.key for image in broken})
    left = np.bincount(rest.train.labels, minlength=len(splits.train.classes))
    for label in np.unique(splits.train.labels).tolist():
        if not left[label]:
            raise AlitokError(
                f"Class {splits.train.classes[label]!r} of {splits.name} has no usable image for training; replace "
                f"the broken ones or remove the class:\n{list_broken(broken)}"
            )
    if not len(rest.val):
        raise AlitokError(f"All validation images of {splits.name} are broken; replace them:\n{list_broken(broken)}")


def list_broken(broken: Sequence[Broken], most: int = _NAMED) -> str:
    """One line for each of the first broken images, and one that counts the rest."""
    lines = [f"{key} {reason}" for key, reason in broken[:most]]
    return "\n".join(lines + [f"... and {len(broken) - most:,} more"] * (len(broken) > most))


def open_splits(data: str, size: int, seed: int = 0, say: Say | None = None) -> Splits:
    """Open a data set: list its images without reading them.

    Args:
        data: what the user wrote; the forms are listed above.
        size: pixels a side of the images that leave.
        seed: decides which images are held out, unless the data brings a split.
        say: told what takes long, as when archives are fetched.

    Raises:
        AlitokError: there is no such data set, or its images cannot be used.
    """
    if data in BUILTIN:
        return Splits(*BUILTIN[data].open(size, seed), data, data)
    return split_images(open_images(data, say), full_name(data), size, seed, may_be_mirrored(data))


def split_images(images: Images, name: str, size: int, seed: int = 0, flip: bool = True) -> Splits:
    """Part opened images into those for training and those held out; the splits are called `name`.

    Raises:
        AlitokError: the given split lacks something, or there are too few images for one.
    """
    require_training_classes(images)
    held = images.val
    if held is None:
        held = val_mask(images.labels, _VAL, seed)
        if not held.any():
            raise AlitokError(
                f"{images.name} has one image per class only; at least one class needs two, so that one can be "
                "held out."
            )
    train, val = (np.flatnonzero(mask) for mask in (~held, held))
    return Splits(
        DecodedSource(f"{images.name} train", images, train, size, flip, images.left_out),
        DecodedSource(f"{images.name} held-out", images, val, size, flip),
        name,
        images.contents,
        images.notes,
    )


@dataclass(frozen=True)
class Look:
    """What a first look at a data set tells.

    Attributes:
        image_size: pixels a side that most images can fill.
        images: how many there are for training.
    """

    image_size: int
    images: int


def look_at(data: str, say: Say | None = None) -> Look:
    """List a data set and read the headers of some of its images.

    Args:
        data: what the user wrote.
        say: told what takes long, as when archives are fetched.

    Raises:
        AlitokError: there is no such data set, or its images cannot be used.
    """
    if data in BUILTIN:
        size = BUILTIN[data].size
        return Look(size, len(open_splits(data, size).train))
    images = open_images(data, say)
    sides = _short_sides(images, data, say)
    train = split_images(images, data, SIZES[0]).train
    return Look(suggest_size(sides), len(train))


def short_side(data: str, say: Say | None = None) -> float:
    """Pixels of the shorter side of images, the median of some; of a built-in set those that it is made for.

    Raises:
        AlitokError: there is no such data set, or its images cannot be used.
    """
    if data in BUILTIN:
        return BUILTIN[data].size
    return float(np.median(_short_sides(open_images(data, say), data, say)))


def _short_sides(images: Images, data: str, say: Say | None) -> list[int]:
    """Of some images that can be read, as their headers tell.

    Raises:
        AlitokError: there is none.
    """
    rows = _some(images)
    if say is not None and images.groups is not None:
        archives = counted(len(np.unique(images.groups[rows])), "archive")
        say(f"Looking at {counted(len(rows), 'image')} from {archives} of {data}")
    with without_remarks():
        shapes = [shape for row in rows if (shape := header_size(images, row)) is not None]
    if not shapes:
        raise AlitokError(f"Not one of the first images of {data} can be read; see alitok data inspect {data}.")
    return [min(shape) for shape in shapes]


def _some(images: Images) -> list[int]:
    """Evenly spread images; of few groups where reading far apart is dear."""
    rows = np.arange(len(images))
    if images.groups is not None:
        groups = np.unique(images.groups)
        rows = np.flatnonzero(np.isin(images.groups, groups[:: -(-len(groups) // _LOOKED_AT_GROUPS)]))
    return rows[:: -(-len(rows) // _LOOKED_AT)].tolist()


def suggest_size(short_sides: Sequence[int] | np.ndarray) -> int:
    """The largest of 16, 32, 64, 128 and 256 pixels a side that at least half of the images fill; 16 at least."""
    median = np.median(short_sides)
    return max((size for size in SIZES if size <= median), default=SIZES[0])
