"""Every image of a data set read once, and what that tells of the whole.

Enters: splits as they were opened. Leaves: `Survey`, a few numbers per image, and the duplicates among them.
Shapes: N images, training images first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from alitok.data.decode import Facts, examine, facts_of, in_threads, without_remarks
from alitok.data.images import Broken
from alitok.data.reading import DecodedSource
from alitok.data.source import ImageSource, Splits


@dataclass
class Survey:
    """What was found.

    Attributes:
        splits: the images.
        labels: (N,) int64.
        val: (N,) bool.
        sizes: (N, 2) int32 width and height, upright; 0 where an image cannot be decoded.
        digests: (N, 16) uint8, equal where the pixels are; 0 where an image cannot be decoded.
        kinds: how many images are of each kind, and the key of the first.
        broken: images that cannot be decoded, and what listing could not use.
    """

    splits: Splits
    labels: np.ndarray
    val: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    def key(self, index: int) -> str:
        """The name of an image."""
        source, row = self.place(index)
        return source.key(row)

    def place(self, index: int) -> tuple[ImageSource, int]:
        """The source of an image, and its index there."""
        train = len(self.splits.train)
        return (self.splits.train, index) if index < train else (self.splits.val, index - train)

    @property
    def usable(self) -> np.ndarray:
        """(n,) indices of the images that were decoded."""
        return np.flatnonzero(self.sizes[:, 0])


def survey(splits: Splits, progress: Callable[[int], None] | None = None) -> Survey:
    """Read and decode every image once, several at a time.

    Args:
        splits: the images.
        progress: called with the number of images done after each image.

    Raises:
        AlitokError: no image can be read, as when the network is gone.
    """
    sources = (splits.train, splits.val)
    count = len(splits)
    found = Survey(
        splits,
        np.concatenate([source.labels for source in sources]),
        np.arange(count) >= len(splits.train),
        np.zeros((count, 2), np.int32),
        np.zeros((count, 16), np.uint8),
        broken=[broken for source in sources if isinstance(source, DecodedSource) for broken in source.left_out],
    )

    def facts(index: int) -> Facts:
        source, row = found.place(index)
        if isinstance(source, DecodedSource):
            return examine(lambda: source.images.encoded(int(source.rows[row])))
        return facts_of(source.read(row, None).transpose(1, 2, 0))

    with without_remarks():
        for index, seen in enumerate(in_threads(facts, range(count))):
            if seen.problem is not None:
                found.broken.append(Broken(found.key(index), seen.problem))
            else:
                found.sizes[index] = seen.width, seen.height
                found.digests[index] = np.frombuffer(seen.digest, np.uint8)
            for kind in seen.kinds or (("plain RGB",) if seen.problem is None else ()):
                seen_before, example = found.kinds.get(kind) or (0, found.key(index))
                found.kinds[kind] = seen_before + 1, example
            if progress is not None:
                progress(index + 1)
    return found


@dataclass(frozen=True)
class Duplicates:
    """Images of the same pixels.

    Attributes:
        surplus: images that could go without losing any content.
        groups: indices of the images of each group, in order.
        across_classes: numbers of the groups whose images are of different classes.
        across_splits: numbers of the groups that are in training and held out.
    """

    surplus: int
    groups: list[np.ndarray]
    across_classes: list[int]
    across_splits: list[int]


def duplicates(found: Survey) -> Duplicates:
    """Find images whose decoded pixels are the same, to the bit."""
    usable = found.usable
    rows = np.ascontiguousarray(found.digests[usable]).view("V16").ravel()
    order = np.argsort(rows, kind="stable")
    same = np.append(rows[order][1:] == rows[order][:-1], False)
    groups, start = [], 0
    for place in np.flatnonzero(~same).tolist():  # a group ends where the next image differs
        if place > start:
            groups.append(usable[order[start : place + 1]])
        start = place + 1
    groups.sort(key=lambda group: int(group[0]))
    across = [
        [number for number, group in enumerate(groups) if len(np.unique(values[group])) > 1]
        for values in (found.labels, found.val)
    ]
    return Duplicates(sum(len(group) - 1 for group in groups), groups, *across)
