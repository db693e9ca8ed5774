"""The images of a job in numbered blocks, each done as a whole by one process; B images of a block, h image size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """The `count` images of a job, divided into ranges of `size`; the last may be smaller."""

    count: int
    size: int

    def __len__(self) -> int:
        """The number of blocks."""
        return -(-self.count // self.size)

    def __getitem__(self, number: int) -> range:
        """The images of a block."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return range(number * self.size, min((number + 1) * self.size, self.count))


@dataclass(frozen=True)
class ImageBlock:
    """One block with its images."""

    number: int
    indices: range  # of its images in the job
    labels: np.ndarray  # (B,) int64 class numbers; -1 if unknown
    images: np.ndarray  # (B, 3, h, h) uint8
