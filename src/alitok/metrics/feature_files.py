"""What a feature network said of a job's images, block by block on disk: a killed job loses the block it was at.

Enters: arrays of a block, by name. Leaves: one npz file for each block, the same whichever process wrote it; and the
arrays again, block by block, so that a job of any size is read in bounded memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from alitok.core.blocks import Blocks
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, remove

_DIGITS = 5


class FeatureFiles:
    """The files of one job.

    Args:
        root: their directory; made when the first block is written.
        blocks: of the job.
    """

    def __init__(self, root: Path, blocks: Blocks) -> None:
        self.root, self.blocks = root, blocks

    def missing(self) -> list[int]:
        """The numbers of the blocks that are not there."""
        there = {path.name for path in self.root.glob("block-*.npz")}
        return [number for number in range(len(self.blocks)) if self._path(number).name not in there]

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a block, whole or not at all."""
        with atomic_path(self._path(number)) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # a name might be allow_pickle, mypy fears

    def read(self, number: int, *names: str) -> dict[str, np.ndarray]:
        """A block's arrays of these names, those that it has.

        Raises:
            AlitokError: the file is gone or damaged.
        """
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in names if name in file.files}
        except FileNotFoundError:
            raise AlitokError(
                f"{path} is not there after all processes have written theirs; they must share one disk. "
                "Run the same command again."
            ) from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            raise AlitokError(f"{path} is damaged; delete it and run the same command again.") from None

    def each(self, *names: str, numbers: range | None = None) -> Iterator[dict[str, np.ndarray]]:
        """The blocks' arrays of these names, in order; all blocks unless told which."""
        for number in range(len(self.blocks)) if numbers is None else numbers:
            yield self.read(number, *names)

    def column(self, name: str) -> np.ndarray:
        """An array of all images in order, (N, ...)."""
        return np.concatenate([block[name] for block in self.each(name)])

    def discard(self) -> None:
        """Delete all blocks, whatever job they are of, and the directory if nothing else is in it."""
        for path in [*self.root.glob("block-*.npz"), *self.root.glob(".block-*.npz.*.part")]:
            remove(path)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()

    def _path(self, number: int) -> Path:
        return self.root / f"block-{number:0{_DIGITS}d}.npz"
