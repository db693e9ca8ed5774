"""Real images that come with libraries, so that the whole system can be tried without a download.

`digits`: scikit-learn's 1,797 scanned handwritten digits, 8 x 8 px, enlarged. `photos`: random crops of the photographs
in scikit-image's wheel; the class is the photograph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.crops import CropRecipe, stack_views, to_array, to_rgb
from alitok.data.sources.images import Broken
from alitok.data.split import val_mask

# every photograph of the wheel that is not a drawing, text or a second view, and whose validation quarter fits a crop
# of 64 px
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
TRAINING_CROPS = 128  # of each photograph in an epoch: 14 x 128 images, about as many as there are training digits
VAL_CROPS = 16  # of each photograph: 224 images, enough for a PSNR and few enough to differ from one another
PHOTO_SCALE = 4  # short side of a shrunk photograph, in crops: a crop then shows a thing, not a texture

_DIGIT_SIDE, _DIGIT_MAX = 8, 16
_DIGITS_VAL = 0.2
_INSTALL = "is not installed; run: pip install 'alitok[demo]'"


@dataclass(eq=False)
class _InMemory(ABC):
    """Base of the built-in sources: no image can be broken, and any order is equally fast."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64
    size: int
    flip: bool = field(default=True, kw_only=True)
    groups: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.numbers = np.arange(len(self.labels))  # of the images in the whole source

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        return f"{self.name} {self.numbers[index]}"

    @abstractmethod
    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """(3, size, size) uint8."""

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """(1, 3, size, size) uint8 for any recipe."""
        return self.read(index, None)[None]

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        return []

    def without(self, keys: Collection[str]) -> Self:
        rows = np.array([row for row in range(len(self)) if self.key(row) not in keys], np.int64)
        rest = copy(self)
        rest.labels, rest.numbers = self.labels[rows], self.numbers[rows]
        return self if len(rows) == len(self) else rest


@dataclass(eq=False)
class DigitSource(_InMemory):
    """Grey images in memory with one view each, with or without `rng`."""

    images: np.ndarray  # (N, size, size) uint8
    flip: bool = field(default=False, kw_only=True)  # a mirrored 2 is not a digit

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """(3, size, size) uint8."""
        return np.repeat(self.images[self.numbers[index], None], 3, axis=0)


def open_digits(size: int, seed: int) -> tuple[DigitSource, DigitSource]:
    """The digits, a fifth of each class for validation; AlitokError without scikit-learn, or for `size` below 8."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise AlitokError(f"digits: scikit-learn {_INSTALL}") from None
    if size < _DIGIT_SIDE:
        raise AlitokError(f"digits: an image size of {size} is too small; the scans have {_DIGIT_SIDE} px.")
    scans = load_digits()
    images = np.stack([_enlarge(scan, size) for scan in scans.images])
    labels = scans.target.astype(np.int64)
    classes = tuple(str(name) for name in scans.target_names)
    held = val_mask(labels, _DIGITS_VAL, seed)
    return (
        DigitSource("digits train", classes, labels[~held], size, images[~held]),
        DigitSource("digits held-out", classes, labels[held], size, images[held]),
    )


def _enlarge(scan: np.ndarray, size: int) -> np.ndarray:
    """(8, 8) values in 0..16 -> (size, size) uint8; resampled as floats, so that rounding happens once."""
    grey = Image.fromarray((scan * (255 / _DIGIT_MAX)).astype(np.float32))
    return np.asarray(grey.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 255).round().astype(np.uint8)


@dataclass(eq=False)
class _PhotoSource(_InMemory):
    """Base of both kinds of crops: a region of each photograph, in memory."""

    regions: list[np.ndarray]  # one (3, h, w) uint8 of each photograph


class PhotoTrainSource(_PhotoSource):
    """Random crops of the training region of each photograph; the fixed view is one of them, not flipped."""

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """(3, size, size) uint8."""
        crop = self._cut(index, np.random.default_rng(self.numbers[index]) if rng is None else rng)
        mirrored = rng is not None and self.flip and rng.random() < 0.5
        return np.ascontiguousarray(crop[:, :, ::-1] if mirrored else crop)

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """(C, 3, size, size) uint8: the fixed view; `ten` adds four random crops, as corners would be alike for all."""
        draw = np.random.default_rng(self.numbers[index])
        crops = [self._cut(index, draw) for _ in range(5 if recipe == "ten" else 1)]
        return stack_views(crops, self.flip and recipe != "centre")

    def _cut(self, index: int, draw: np.random.Generator) -> np.ndarray:
        region = self.regions[self.labels[index]]
        top = int(draw.integers(region.shape[1] - self.size + 1))
        left = int(draw.integers(region.shape[2] - self.size + 1))
        return region[:, top : top + self.size, left : left + self.size]


class PhotoValSource(_PhotoSource):
    """Fixed crops spread over the validation region of each photograph; `rng` is unused."""

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """(3, size, size) uint8."""
        region = self.regions[self.labels[index]]
        number = self.numbers[index] % VAL_CROPS
        room = np.array(region.shape[1:]) - self.size
        corner = room * (number % 2)  # alternating ends of the short side
        long = np.argmax(room)
        corner[long] = round(room[long] * number / (VAL_CROPS - 1))  # even steps along the long side
        top, left = corner.tolist()
        return np.ascontiguousarray(region[:, top : top + self.size, left : left + self.size])


def open_photos(size: int, seed: int) -> tuple[PhotoTrainSource, PhotoValSource]:
    """Crops of the photographs; they are split by region, so `seed` is unused.

    Raises:
        AlitokError: scikit-image or one of its photographs is missing, or `size` does not fit the photographs.
    """
    try:
        import skimage
    except ImportError:
        raise AlitokError(f"photos: scikit-image {_INSTALL}") from None
    folder = Path(skimage.__file__).parent / "data"
    photos = {}
    for name in PHOTOS:
        try:
            with Image.open(folder / name) as image:
                photos[Path(name).stem] = to_rgb(image)
        except OSError as error:
            raise AlitokError(
                f"photos: {folder / name} of scikit-image cannot be read ({error}); reinstall scikit-image."
            ) from None
    return photo_sources(photos, size)


def photo_sources(photos: Mapping[str, Image.Image], size: int) -> tuple[PhotoTrainSource, PhotoValSource]:
    """Cut each RGB photograph into a training and a validation region; shrink both alike, for crops of `size` px.

    Raises:
        AlitokError: `size` is below 8, or so large that a photograph would have to be enlarged.
    """
    largest = min(min(photo.size) for photo in photos.values()) // PHOTO_SCALE
    if not _DIGIT_SIDE <= size <= largest:
        raise AlitokError(f"photos: an image size of {size} does not fit; choose one from {_DIGIT_SIDE} to {largest}.")
    regions = [_cut_and_shrink(photo, size) for photo in photos.values()]
    classes = tuple(photos)
    rows = np.arange(len(classes), dtype=np.int64)
    train, val = (list(parts) for parts in zip(*regions, strict=True))
    return (
        PhotoTrainSource("photos train", classes, rows.repeat(TRAINING_CROPS), size, train),
        PhotoValSource("photos held-out", classes, rows.repeat(VAL_CROPS), size, val),
    )


def _cut_and_shrink(photo: Image.Image, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first three quarters of the long side and the last, (3, h, w) uint8; cut first: resampling mixes pixels."""
    width, height = photo.size
    scale = PHOTO_SCALE * size / min(width, height)
    right, bottom = (width * 3 // 4, height) if width >= height else (width, height * 3 // 4)
    regions = photo.crop((0, 0, right, bottom)), photo.crop((right % width, bottom % height, width, height))
    training, val = (
        to_array(region.resize((round(region.width * scale), round(region.height * scale)), Image.Resampling.BICUBIC))
        for region in regions
    )
    return training, val


class Builtin(NamedTuple):
    """A built-in set: its opener, and the image size of its recipe."""

    open: Callable[[int, int], tuple[_InMemory, _InMemory]]
    size: int


BUILTIN = {"digits": Builtin(open_digits, 16), "photos": Builtin(open_photos, 32)}
