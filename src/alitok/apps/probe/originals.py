"""The images of a probe, and their codes.

Enters: a split of a data set, of which some images are taken in an order drawn by the seed; those that cannot be read
are passed over. Leaves: `Coded`. Shapes: N images, n of them kept, h image side, T codes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.data.decode import BrokenImageError, in_threads, silence_pillow
from alitok.data.sources.decoded import ImageSource
from alitok.data.sources.images import Broken
from alitok.metrics.codec import Codec, look


@dataclass(frozen=True, eq=False)
class Coded:
    """Images of a split and their codes; more images by the same seed begin with those of fewer.

    Attributes:
        images: (n, 3, h, h) uint8, of the first ones.
        codes: (N, T) int64.
        labels: (N,) int64.
        broken: those passed over.
    """

    images: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor
    broken: tuple[Broken, ...]


def first_images(source: ImageSource, seed: int, count: int) -> torch.Tensor:
    """The first images (n, 3, h, h) uint8 in the order of the seed, n <= count.

    Raises:
        AlitokError: there are fewer than two.
    """
    with closing(_usable(source, seed, [])) as usable:
        found = [image for _, image in islice(usable, count)]
    if len(found) < 2:
        raise AlitokError(
            f"What stands in an image is replaced by what stands in another, so at least two validation images are "
            f"needed; {source.name} has {len(found)} that can be read."
        )
    return torch.from_numpy(np.stack(found))


def encode_images(
    codec: Codec,
    source: ImageSource,
    *,
    seed: int,
    most: int,
    kept: int,
    batch_size: int,
    tell: Callable[[int, int], None],
) -> Coded:
    """Encode images, `batch_size` at a time.

    Args:
        codec: which.
        source: the split.
        seed: of the order.
        most: images to encode, as far as there are so many.
        kept: images to keep, of those.
        batch_size: of a call.
        tell: called with the images done and all there are.

    Raises:
        AlitokError: no image can be read, or the codec fails.
    """
    broken: list[Broken] = []
    count, codes = min(most, len(source)), []
    rows: list[int] = []
    images = [torch.zeros(0, 3, source.size, source.size, dtype=torch.uint8)]
    with closing(_usable(source, seed, broken)) as usable:
        wanted = islice(usable, count)
        while block := list(islice(wanted, batch_size)):
            decoded = torch.from_numpy(np.stack([each for _, each in block]))
            codes.append(look(codec, pixels.to_float(decoded)).codes.cpu())
            images.append(decoded[: max(0, kept - len(rows))])
            rows += [row for row, _ in block]
            tell(len(rows), count)
    if not rows:
        raise AlitokError(f"{source.name} has no image that can be read.")
    return Coded(torch.cat(images), torch.cat(codes), torch.from_numpy(source.labels[rows]), tuple(broken))


def _usable(source: ImageSource, seed: int, broken: list[Broken]) -> Generator[tuple[int, np.ndarray], None, None]:
    """Rows and images (3, h, h) in the order of the seed; those passed over are added to `broken`."""
    order = np.random.default_rng(seed % 2**64).permutation(len(source)).tolist()

    def read(row: int) -> tuple[int, np.ndarray | Broken]:
        try:
            return row, source.read(row, None)
        except BrokenImageError as error:
            return row, Broken(error.key, error.reason)

    with silence_pillow(), closing(in_threads(read, order)) as found:  # type: ignore[type-var]
        for row, image in found:
            if isinstance(image, Broken):
                broken.append(image)
            else:
                yield row, image
