"""The images of a probe and their codes.

Shapes: N images, n of them returned, h image size, T codes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from alitok.core.errors import AlitokError
from alitok.core.images import to_float
from alitok.data.decode import BrokenImageError, in_threads, silence_pillow
from alitok.data.sources.decoded import ImageSource
from alitok.data.sources.images import Broken
from alitok.metrics.codec import Codec, encode


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Images of a split in a random order of the seed, without `broken` ones; fewer are the first ones of more.

    `images` (n, 3, h, h) uint8 are the first ones; `codes` (N, T) and `labels` (N,) int64.
    """

    images: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor
    broken: tuple[Broken, ...]


def first_images(source: ImageSource, seed: int, count: int) -> torch.Tensor:
    """Images (n, 3, h, h) uint8 in the order of the seed, n <= count; AlitokError where there are fewer than two."""
    with closing(_readable(source, seed, [])) as readable:
        found = [image for _, image in islice(readable, count)]
    if len(found) < 2:
        raise AlitokError(
            "Parts of an image are replaced by those of another, so at least two validation images are needed; "
            f"{source.name} has {len(found)} readable."
        )
    return torch.from_numpy(np.stack(found))


def encode_images(
    codec: Codec,
    source: ImageSource,
    *,
    seed: int,
    limit: int,
    returned: int,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> EncodedImages:
    """Encode up to `limit` images, and return up to `returned` of them; `progress` is given those done and their total.

    AlitokError where no image is readable, or the codec fails.
    """
    broken: list[Broken] = []
    count, codes = min(limit, len(source)), []
    rows: list[int] = []
    images = [torch.zeros(0, 3, source.size, source.size, dtype=torch.uint8)]
    with closing(_readable(source, seed, broken)) as readable:
        wanted = islice(readable, count)
        while block := list(islice(wanted, batch_size)):
            decoded = torch.from_numpy(np.stack([each for _, each in block]))
            codes.append(encode(codec, to_float(decoded)).codes.cpu())
            images.append(decoded[: max(0, returned - len(rows))])
            rows += [row for row, _ in block]
            progress(len(rows), count)
    if not rows:
        raise AlitokError(f"{source.name} has no readable image.")
    return EncodedImages(torch.cat(images), torch.cat(codes), torch.from_numpy(source.labels[rows]), tuple(broken))


def _readable(source: ImageSource, seed: int, broken: list[Broken]) -> Generator[tuple[int, np.ndarray], None, None]:
    """Rows and images (3, h, h) in the order of the seed; unreadable ones are appended to `broken`."""
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
