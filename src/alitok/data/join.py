"""Two sources as one: the images of the first, then those of the second."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from alitok.core.errors import AlitokError
from alitok.data.crops import CropRecipe
from alitok.data.images import Broken
from alitok.data.source import ImageSource, Splits, crops_per_image


class JoinedSource:
    """An `ImageSource` over two others of the same classes and size.

    Args:
        name: for people.
        first: its images come first.
        second: these follow.
    """

    groups: np.ndarray | None = None

    def __init__(self, name: str, first: ImageSource, second: ImageSource) -> None:
        assert (first.classes, first.size, first.flip) == (second.classes, second.size, second.flip)
        self.name, self.classes, self.size, self.flip = name, first.classes, first.size, first.flip
        self.labels = np.concatenate([first.labels, second.labels])
        self._parts = first, second

    def __len__(self) -> int:
        return len(self.labels)

    def _at(self, index: int) -> tuple[ImageSource, int]:
        first, second = self._parts
        return (first, index) if index < len(first) else (second, index - len(first))

    def key(self, index: int) -> str:
        """The name of an image in the source it comes from."""
        source, place = self._at(index)
        return source.key(place)

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """(3, size, size) uint8."""
        source, place = self._at(index)
        return source.read(place, rng)

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """(C, 3, size, size) uint8."""
        source, place = self._at(index)
        return source.views(place, recipe)

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        """Both sources, one after the other."""
        first, second = self._parts
        behind = None if progress is None else lambda done: progress(len(first) + done)
        return first.verify(progress, part) + second.verify(behind, part)

    def without(self, keys: Collection[str]) -> JoinedSource:
        """The same without the images named by `keys`."""
        first, second = (source.without(keys) for source in self._parts)
        return JoinedSource(self.name, first, second)


def joined(splits: Splits, recipe: CropRecipe) -> ImageSource:
    """All images of a data set, those for training first.

    Raises:
        AlitokError: the recipe makes another number of views of validation images, or a first image cannot be read.
    """
    train, val = (crops_per_image(source, recipe) for source in (splits.train, splits.val))
    if train != val:
        raise AlitokError(
            f"Of {splits.name}, '{recipe}' makes {train} views of a training image and {val} of a held-out one; "
            "encode them to two stores, with --split train and --split val."
        )
    return JoinedSource(splits.name, splits.train, splits.val)
