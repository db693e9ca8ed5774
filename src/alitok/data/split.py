"""Training and validation images of a data set, and whether it can be trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alitok.core.errors import AlitokError
from alitok.data.crops import CropRecipe
from alitok.data.sources.decoded import DecodedSource, ImageSource, JoinedSource, crops_per_image
from alitok.data.sources.images import Broken, EncodedImages

MOST_BROKEN = 0.01  # of all images; with more, something is wrong with the data as a whole
_VAL = 0.1
_NAMED = 10  # broken images that one message names


@dataclass(frozen=True)
class Splits:
    """Training and validation images, of the same classes and size.

    Attributes:
        name: the built-in set, or where the data is.
        contents: a hash that changes when images are added, removed, renamed, relabelled or of another size on disk;
            independent of `without`.
        notes: for the user, on what was found and is not used.
    """

    train: ImageSource
    val: ImageSource
    name: str
    contents: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.train) + len(self.val)

    def without(self, keys: Collection[str]) -> Splits:
        """The same without the images named by `keys`, such as those that `verify` found to be broken."""
        return replace(self, train=self.train.without(keys), val=self.val.without(keys)) if keys else self


def val_mask(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw about `fraction` of each class for validation, at least one image and never a whole class.

    Labels (N,) integers -> (N,) bool. The draw of a class depends only on its label and its number of images.
    """
    mask = np.zeros(len(labels), bool)
    by_class = np.argsort(labels, kind="stable")  # one sort: a comparison per class is slow with thousands of classes
    values, starts = np.unique(labels[by_class], return_index=True)
    for label, rows in zip(values, np.split(by_class, starts[1:]), strict=True):
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        rng = np.random.default_rng([seed % 2**64, int(label)])
        mask[rng.choice(rows, count, replace=False)] = True
    return mask


def split_images(images: EncodedImages, name: str, size: int, seed: int = 0, flip: bool = True) -> Splits:
    """Split opened images into training and validation images; the splits are called `name`.

    Raises:
        AlitokError: the given split lacks something, or there are too few images for one.
    """
    val = images.val
    if val is None:
        val = val_mask(images.labels, _VAL, seed)
        if not val.any():
            raise AlitokError(
                f"{images.name} has only one image per class; a validation set needs a class with at least two."
            )
    for empty, part in ((val.all(), "training"), (not val.any(), "validation")):
        if empty:
            raise AlitokError(f"{images.name} has no {part} images; check how it is split.")
    missing = np.setdiff1d(images.labels[val], images.labels[~val])
    if len(missing):
        raise AlitokError(
            f"Class {images.classes[int(missing[0])]!r} of {images.name} has validation images but no training "
            "images; add some or remove the class."
        )
    rows = np.arange(len(val))
    return Splits(
        DecodedSource(f"{images.name} train", images, rows[~val], size, flip, images.left_out),
        DecodedSource(f"{images.name} held-out", images, rows[val], size, flip),
        name,
        images.contents,
        images.notes,
    )


def joined(splits: Splits, recipe: CropRecipe) -> ImageSource:
    """All images of a data set, training images first.

    Raises:
        AlitokError: the recipe makes another number of views of validation images, or a first image cannot be read.
    """
    train, val = (crops_per_image(source, recipe) for source in (splits.train, splits.val))
    if train != val:
        raise AlitokError(
            f"'{recipe}' makes {train} views of each training image of {splits.name} and {val} of each validation "
            "image; encode them to two stores, with --split train and --split val."
        )
    return JoinedSource(splits.name, splits.train, splits.val)


def check_broken(broken: Sequence[Broken], splits: Splits) -> None:
    """Decide whether training may go on without all images that `verify` found to be broken, over all ranks.

    Raises:
        AlitokError: more than 1 % of all images are broken, or without them a class has no training image or the
            validation set is empty; the message names them.
    """
    fraction = len(broken) / max(len(splits), 1)
    if fraction > MOST_BROKEN:
        raise AlitokError(
            f"{len(broken):,} of {len(splits):,} images of {splits.name} cannot be used ({fraction:.1%}, at most "
            f"{MOST_BROKEN:.0%} may be skipped); replace or remove them:\n{list_broken(broken)}"
        )
    if not broken:
        return
    rest = splits.without({image.key for image in broken})
    remaining = np.bincount(rest.train.labels, minlength=len(splits.train.classes))
    for label in np.unique(splits.train.labels).tolist():
        if not remaining[label]:
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
