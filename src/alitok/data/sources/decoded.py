"""Square training images, decoded and cropped each time they are read: N images, C views of an image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from alitok.data.crops import CropRecipe, centre_crop, five_crops, random_crop, stack_views, to_array
from alitok.data.decode import in_threads, read_image, reason, silence_pillow, too_small
from alitok.data.sources.images import Broken, EncodedImages

Progress = Callable[[int], None]


class ImageSource(Protocol):
    """A fixed number of labelled square images.

    Attributes:
        name: for messages, such as "digits train".
        labels: (N,) int64, indices into `classes`.
        size: px.
        flip: whether a mirrored image still belongs to its class.
        groups: (N,) integers, equal for images best read at about the same time; None where any order is equally fast.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    size: int
    flip: bool
    groups: np.ndarray | None

    def __len__(self) -> int:
        """Number of images in an epoch."""

    def key(self, index: int) -> str:
        """The name of an image: unique, and independent of which other images are excluded."""

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """One image (3, size, size) uint8, contiguous; `rng` draws the crop and flip of training, None: the fixed view.

        Raises:
            AlitokError: the image cannot be read.
        """

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """The views of one image whose codes are stored, (C, 3, size, size) uint8, contiguous, the same at every call.

        C is the same for all images, see `crops_per_image`. `centre` is the fixed view of `read`; `flip` adds its
        mirror image; `ten` is four corners and the centre at 1.1 x, or five positions drawn once where a source has no
        whole image, and then the same five mirrored. No mirror images where `flip` is false; a source whose `read` does
        not use `rng` has its fixed view only.

        Raises:
            AlitokError: the image cannot be read.
        """

    def verify(self, progress: Progress | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        """Read every image once, where one can be broken; returns the unusable ones, which `check_broken` may allow.

        Args:
            progress: called with the number of images done after each image.
            part: rank and world size; each rank reads and reports its part.

        Raises:
            AlitokError: no image can be read, as when the network is down.
        """

    def without(self, keys: Collection[str]) -> ImageSource:
        """The same images in the same order, without those named by `keys`; unknown keys are ignored."""


@dataclass(eq=False)
class DecodedSource:
    """The `ImageSource` over all images that are decoded from files."""

    name: str
    images: EncodedImages
    rows: np.ndarray  # (N,) int64, the rows of `images` that are read, ascending
    size: int
    flip: bool = True
    left_out: tuple[Broken, ...] = ()  # broken images without a row; `verify` returns them with those it finds

    def __post_init__(self) -> None:
        self.classes = self.images.classes
        self.labels = self.images.labels[self.rows]
        groups = self.images.groups
        self.groups = None if groups is None else groups[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        """See `ImageSource`."""
        return self.images.key(int(self.rows[index]))

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """The centre crop, or with `rng` a random crop at 1.1 x, mirrored with probability 1/2."""
        image = self.decode(index)
        if rng is None:
            return to_array(centre_crop(image, self.size))
        crop = to_array(random_crop(image, self.size, rng))
        mirrored = self.flip and rng.random() < 0.5
        return np.ascontiguousarray(crop[:, :, ::-1]) if mirrored else crop

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """The centre crop, or with `ten` the corners and the centre at 1.1 x."""
        image = self.decode(index)
        crops = five_crops(image, self.size) if recipe == "ten" else [centre_crop(image, self.size)]
        return stack_views([to_array(crop) for crop in crops], self.flip and recipe != "centre")

    def encoded(self, index: int) -> bytes:
        """The image file of an image."""
        return self.images.encoded(int(self.rows[index]))

    def decode(self, index: int) -> Image.Image:
        """A whole image, RGB and upright; raises BrokenImageError."""
        with silence_pillow():
            return read_image(self.images, int(self.rows[index]))

    def verify(self, progress: Progress | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        """Decode the images of a contiguous part, several at a time."""
        rank, world_size = part
        start, end = (len(self) * bound // world_size for bound in (rank, rank + 1))
        broken = [] if rank else list(self.left_out)
        with silence_pillow():
            for done, found in enumerate(in_threads(self._problem, range(start, end)), start=1):
                if found is not None:
                    broken.append(found)
                if progress is not None:
                    progress(min(done * world_size, len(self)))
        return broken

    def _problem(self, index: int) -> Broken | None:
        row = int(self.rows[index])
        try:
            problem = too_small(*read_image(self.images, row).size, self.size)
        except Exception as error:
            problem = reason(error)
        return Broken(self.images.key(row), problem) if problem else None

    def without(self, keys: Collection[str]) -> DecodedSource:
        """See `ImageSource`."""
        rows = self.rows
        if keys:
            excluded = set(keys)
            rows = rows[np.array([self.images.key(row) not in excluded for row in rows.tolist()], bool)]
        return replace(self, rows=rows, left_out=())


class JoinedSource:
    """The images of `first`, then those of `second`, which have the same classes and size."""

    groups: np.ndarray | None = None

    def __init__(self, name: str, first: ImageSource, second: ImageSource) -> None:
        assert (first.classes, first.size, first.flip) == (second.classes, second.size, second.flip)
        self.name, self.classes, self.size, self.flip = name, first.classes, first.size, first.flip
        self.labels = np.concatenate([first.labels, second.labels])
        self._parts = first, second

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: int) -> tuple[ImageSource, int]:
        """The source of an image, and its index there."""
        first, second = self._parts
        return (first, index) if index < len(first) else (second, index - len(first))

    def key(self, index: int) -> str:
        """The name of an image in its own source."""
        source, row = self.at(index)
        return source.key(row)

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `ImageSource`."""
        source, row = self.at(index)
        return source.read(row, rng)

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """See `ImageSource`."""
        source, row = self.at(index)
        return source.views(row, recipe)

    def verify(self, progress: Progress | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        """Both sources, one after the other."""
        first, second = self._parts
        after = None if progress is None else lambda done: progress(len(first) + done)
        return first.verify(progress, part) + second.verify(after, part)

    def without(self, keys: Collection[str]) -> JoinedSource:
        """See `ImageSource`."""
        return JoinedSource(self.name, *(source.without(keys) for source in self._parts))


def fixed_views(source: ImageSource, rows: Iterable[int]) -> np.ndarray:
    """Fixed views (n, 3, size, size) uint8, several read at a time; AlitokError where an image cannot be read."""
    wanted = [int(row) for row in rows]
    views = np.empty((len(wanted), 3, source.size, source.size), np.uint8)
    with silence_pillow():
        for place, view in enumerate(in_threads(lambda row: source.read(row, None), wanted)):
            if not place and view.dtype != views.dtype:  # a faulty source: the preflight reports its values
                views = views.astype(view.dtype)
            views[place] = view
    return views


def crops_per_image(source: ImageSource, recipe: CropRecipe) -> int:
    """C, the number of views that a recipe makes of each image; AlitokError where the first cannot be read."""
    return len(source.views(0, recipe))
