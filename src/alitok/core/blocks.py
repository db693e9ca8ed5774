"""Pictures of a job in numbered blocks: what is drawn, read or measured as a whole, by whichever process.

Enters: how many pictures there are. Leaves: their ranges. Shapes: B pictures of a block, h image side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """The pictures of a job in ranges that are done as a whole.

    Attributes:
        count: pictures in all.
        size: of a block; the last may hold fewer.
    """

    count: int
    size: int

    def __len__(self) -> int:
        """How many blocks there are."""
        return -(-self.count // self.size)

    def __getitem__(self, number: int) -> range:
        """The pictures of a block."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return range(number * self.size, min((number + 1) * self.size, self.count))


@dataclass(frozen=True)
class PictureBlock:
    """One block with its pictures.

    Attributes:
        number: of the block.
        pictures: the numbers of its pictures in the job.
        labels: (B,) int64 class numbers; -1 where a class is not known.
        images: (B, 3, h, h) uint8.
    """

    number: int
    pictures: range
    labels: np.ndarray
    images: np.ndarray
