"""What a data set holds: a preview from some headers, or a survey that decodes all N images, training images first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from alitok.core.console import Reporter, counted
from alitok.core.errors import AlitokError
from alitok.data.crops import orientation, to_rgb
from alitok.data.decode import header_size, in_threads, open_encoded, reason, silence_pillow
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.decoded import DecodedSource, JoinedSource
from alitok.data.sources.images import Broken, EncodedImages
from alitok.data.sources.opening import open_images, open_splits
from alitok.data.split import Splits, split_images

SIZES = (16, 32, 64, 128, 256)  # px that `suggest_size` chooses from
_PREVIEWED, _PREVIEWED_GROUPS = 256, 4  # images whose headers a preview reads, and groups they come from


@dataclass(frozen=True)
class Preview:
    """What the listing and some headers of a data set show."""

    image_size: int  # px that most images can fill
    images: int  # in the training split


def preview(data: str, log: Reporter | None = None) -> Preview:
    """List a data set and read some headers; AlitokError where it does not exist or cannot be used."""
    if data in BUILTIN:
        size = BUILTIN[data].size
        return Preview(size, len(open_splits(data, size).train))
    images = open_images(data, log)
    sides = _short_sides(images, data, log)
    return Preview(suggest_size(sides), len(split_images(images, data, SIZES[0]).train))


def short_side(data: str, log: Reporter | None = None) -> float:
    """Median short side in px of some images, of a built-in set its own size; AlitokError where none can be read."""
    if data in BUILTIN:
        return BUILTIN[data].size
    return float(np.median(_short_sides(open_images(data, log), data, log)))


def suggest_size(short_sides: Sequence[int] | np.ndarray) -> int:
    """The largest of 16, 32, 64, 128 and 256 px that at least half of the images fill; 16 at least."""
    median = np.median(short_sides)
    return max((size for size in SIZES if size <= median), default=SIZES[0])


def _short_sides(images: EncodedImages, data: str, log: Reporter | None) -> list[int]:
    """Of evenly spread images whose headers can be read; of few groups where reading far apart is slow."""
    rows = np.arange(len(images))
    if images.groups is not None:
        groups = np.unique(images.groups)
        rows = np.flatnonzero(np.isin(images.groups, groups[:: -(-len(groups) // _PREVIEWED_GROUPS)]))
    rows = rows[:: -(-len(rows) // _PREVIEWED)]
    if log is not None and images.groups is not None:
        archives = counted(len(np.unique(images.groups[rows])), "archive")
        log(f"Previewing {counted(len(rows), 'image')} from {archives} of {data}")
    with silence_pillow():
        shapes = [shape for row in rows.tolist() if (shape := header_size(images, row)) is not None]
    if not shapes:
        raise AlitokError(f"None of the previewed images of {data} can be read; see alitok data inspect {data}.")
    return [min(shape) for shape in shapes]


class Facts(NamedTuple):
    """What one image is; if it has a problem, all else is empty."""

    width: int = 0  # px, upright
    height: int = 0  # px
    kinds: tuple[str, ...] = ()  # such as `grey`, `CMYK` or `turned by EXIF`: how it differs from 8-bit RGB
    digest: bytes = b""  # equal for images of the same decoded pixels
    problem: str | None = None  # why it cannot be decoded


def examine(read: Callable[[], bytes]) -> Facts:
    """Read and decode one image; raises AlitokError where no image can be read."""
    try:
        with open_encoded(read()) as image:
            kinds = tuple(_kinds(image))
            pixels = to_rgb(image)
    except Exception as error:
        return Facts(problem=reason(error))
    return _facts(np.asarray(pixels), kinds)


def _facts(pixels: np.ndarray, kinds: tuple[str, ...] = ()) -> Facts:
    """The facts of decoded pixels (h, w, 3) uint8."""
    height, width, _ = pixels.shape
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, person=b"%dx%d" % (width, height))
    return Facts(width, height, kinds, digest.digest())


def _kinds(image: Image.Image) -> Iterator[str]:
    """Of an opened image that is not loaded yet: loading discards the file's own form."""
    form = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        yield "black and white" if image.mode == "1" else "grey"
    elif image.mode in ("P", "PA"):
        yield "palette"
    elif image.mode not in ("RGB", "RGBA", "RGBX"):
        yield image.mode
    if ";16" in form or image.mode == "I" or image.mode.startswith("I;16"):
        yield "16-bit"
    if image.mode == "F":
        yield "float"
    if image.has_transparency_data:
        yield "alpha"
    if orientation(image) != 1:
        yield "turned by EXIF"
    if getattr(image, "is_animated", False):
        yield "animated"


@dataclass
class Survey:
    """What was found."""

    splits: Splits
    source: JoinedSource  # all images
    val: np.ndarray  # (N,) bool
    sizes: np.ndarray  # (N, 2) int32 width and height, upright; 0 where an image cannot be decoded
    digests: np.ndarray  # (N, 16) uint8, equal where the pixels are; 0 where an image cannot be decoded
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)  # how many images, and the key of the first
    broken: list[Broken] = field(default_factory=list)  # images that cannot be decoded, or listed

    @property
    def usable(self) -> np.ndarray:
        """(n,) indices of the images that were decoded."""
        return np.flatnonzero(self.sizes[:, 0])


def survey(splits: Splits, progress: Callable[[int], None] | None = None) -> Survey:
    """Read and decode every image once, several at a time; `progress` gets the number of images done.

    Raises:
        AlitokError: no image can be read, as when the network is down.
    """
    sources = (splits.train, splits.val)
    count = len(splits)
    both = JoinedSource(splits.name, *sources)
    found = Survey(
        splits,
        both,
        np.arange(count) >= len(splits.train),
        np.zeros((count, 2), np.int32),
        np.zeros((count, 16), np.uint8),
        broken=[broken for source in sources if isinstance(source, DecodedSource) for broken in source.left_out],
    )

    def facts(index: int) -> Facts:
        source, row = both.at(index)
        if isinstance(source, DecodedSource):
            return examine(lambda: source.encoded(row))
        return _facts(source.read(row, None).transpose(1, 2, 0))

    with silence_pillow():
        for index, seen in enumerate(in_threads(facts, range(count))):
            if seen.problem is not None:
                found.broken.append(Broken(both.key(index), seen.problem))
            else:
                found.sizes[index] = seen.width, seen.height
                found.digests[index] = np.frombuffer(seen.digest, np.uint8)
            for kind in seen.kinds or (("plain RGB",) if seen.problem is None else ()):
                seen_before, example = found.kinds.get(kind) or (0, both.key(index))
                found.kinds[kind] = seen_before + 1, example
            if progress is not None:
                progress(index + 1)
    return found


@dataclass(frozen=True)
class Duplicates:
    """Images of the same pixels."""

    surplus: int  # images that could be removed without losing any content
    groups: list[np.ndarray]  # indices of the images of each group, in order
    across_classes: list[int]  # numbers of the groups whose images are of different classes
    across_splits: list[int]  # numbers of the groups that are in both splits


def duplicates(found: Survey) -> Duplicates:
    """Find images whose decoded pixels are bitwise equal."""
    usable = found.usable
    rows = np.ascontiguousarray(found.digests[usable]).view("V16").ravel()
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(~(rows[order][1:] == rows[order][:-1])) + 1  # where an image differs from the one before
    groups = [usable[same] for same in np.split(order, starts) if len(same) > 1]
    groups.sort(key=lambda group: int(group[0]))
    across = [
        [number for number, group in enumerate(groups) if len(np.unique(values[group])) > 1]
        for values in (found.source.labels, found.val)
    ]
    return Duplicates(sum(len(group) - 1 for group in groups), groups, *across)
