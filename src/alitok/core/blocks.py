"""Images of a job in numbered blocks: what is drawn, read or measured as a whole, by whichever process.

Enters: how many images there are. Leaves: their ranges. Shapes: B images of a block, h image side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """The images of a job in ranges that are done as a whole.

    Attributes:
        count: images in all.
        size: of a block; the last may hold fewer.
    """

    count: int
    size: int

    def __len__(self) -> int:
        """How many blocks there are."""
        return -(-self.count // self.size)

    def __getitem__(self, number: int) -> range:
        """The images of a block."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return range(number * self.size, min((number + 1) * self.size, self.count))


@dataclass(frozen=True)
class ImageBlock:
    """One block with its images.

    Attributes:
        number: of the block.
        indices: the numbers of its images in the job.
        labels: (B,) int64 class numbers; -1 where a class is not known.
        images: (B, 3, h, h) uint8.
    """

    number: int
    indices: range
    labels: np.ndarray
    images: np.ndarray
