"""The images that a tokenizer is evaluated on: a split of a data set or a subset of it, center-cropped.

N images, B of a block, h image size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.choices import SplitName
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.decode import in_threads, silence_pillow
from alitok.data.sources.decoded import ImageSource
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.run.images import open_images, report_left_out, verify_images


@dataclass(frozen=True, eq=False)
class Originals:
    """Images by number.

    Attributes:
        sources: numbered one after the other.
        rows: (N,) which of their images, ascending.
    """

    sources: tuple[ImageSource, ...]
    rows: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def name(self) -> str:
        """Names of the sources."""
        return " and ".join(source.name for source in self.sources)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by number."""
        return self.sources[0].classes

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return np.concatenate([source.labels for source in self.sources])[self.rows]

    @property
    def keys(self) -> str:
        """A hash of the images' names: it depends on the seed of a split and on broken images left out."""
        digest = hashlib.sha256()
        for number in range(len(self)):
            digest.update(f"{self.key(number)}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def key(self, number: int) -> str:
        """An image's name."""
        source, row = self._place(number)
        return source.key(row)

    def read(self, numbers: Iterable[int]) -> np.ndarray:
        """Images (B, 3, h, h) uint8, center-cropped.

        Raises:
            AlitokError: one cannot be read.
        """

        def read(number: int) -> np.ndarray:
            source, row = self._place(number)
            return source.read(row, None)

        with silence_pillow():
            return np.stack(list(in_threads(read, numbers)))

    def blocks(self, blocks: Blocks, wanted: Sequence[int], world: World) -> Generator[ImageBlock, None, None]:
        """This process's part of the blocks with these numbers, a few of them read ahead."""
        labels = self.labels

        def block(number: int) -> ImageBlock:
            images = blocks[number]
            return ImageBlock(number, images, labels[images.start : images.stop], self.read(images))

        with silence_pillow():
            yield from in_threads(block, sorted(wanted)[world.rank :: world.size], threads=1)

    def _place(self, number: int) -> tuple[ImageSource, int]:
        row = int(self.rows[number])
        for source in self.sources:
            if row < len(source):
                return source, row
            row -= len(source)
        raise IndexError(number)


def choose(splits: Splits, split: SplitName, num: int | None, seed: int) -> Originals:
    """The images of a split, or a random subset of `num`, which with the same seed includes every smaller one.

    Raises:
        AlitokError: there are fewer, or fewer than two.
    """
    sources = {"all": (splits.train, splits.val), "train": (splits.train,), "val": (splits.val,)}[split]
    count = sum(map(len, sources))
    if num is None:
        num, rows = count, np.arange(count)
    elif num <= count:
        rows = np.sort(np.random.default_rng(seed % 2**64).permutation(count)[:num])
    else:
        raise AlitokError(f"--num {num:,} is more than the {count:,} images ({split}) of {splits.name}; leave it out.")
    if num < 2:
        raise AlitokError(
            f"An evaluation needs at least two images, not {num} ({split}, {splits.name}); give more, or another "
            "--split."
        )
    return Originals(sources, rows)


def usable_images(
    data: str, size: int, seed: int, split: SplitName, world: World, console: Console
) -> tuple[Splits, list[Broken]]:
    """The data without the broken images of a split, and those, which are reported.

    Raises:
        AlitokError: the data cannot be used, or too many images are broken.
    """
    splits = open_images(data, size, seed, console)
    broken = verify_images(splits, split, world, console)
    report_left_out(broken, console)
    return splits.without({key for key, _ in broken}), broken
