"""Features of a job's images on disk, one npz file per block: an interrupted job loses only the block it was at."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from alitok.core.blocks import Blocks
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path


class FeatureFiles:
    """The files of one job in `root`, which the first block creates."""

    def __init__(self, root: Path, blocks: Blocks) -> None:
        self.root, self.blocks = root, blocks

    def missing(self) -> list[int]:
        """Numbers of the blocks that have no file yet."""
        there = {path.name for path in self.root.glob("block-*.npz")}
        return [number for number in range(len(self.blocks)) if self._path(number).name not in there]

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a block's arrays, whole or not at all."""
        with atomic_path(self._path(number)) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy: a name might be allow_pickle

    def read(self, number: int, *names: str) -> dict[str, np.ndarray]:
        """Those of a block's arrays that have these names.

        Raises:
            AlitokError: the file is missing or damaged.
        """
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in names if name in file.files}
        except FileNotFoundError:
            raise AlitokError(
                f"{path} is missing although all processes have written theirs: do they share a disk? Run the same "
                "command again."
            ) from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            raise AlitokError(f"{path} is damaged; delete it and run the same command again.") from None

    def each(self, *names: str, numbers: range | None = None) -> Iterator[dict[str, np.ndarray]]:
        """The blocks' arrays of these names, in order; default: all blocks."""
        for number in range(len(self.blocks)) if numbers is None else numbers:
            yield self.read(number, *names)

    def column(self, name: str) -> np.ndarray:
        """An array of all images in order, (N, ...)."""
        return np.concatenate([block[name] for block in self.each(name)])

    def _path(self, number: int) -> Path:
        return self.root / f"block-{number:05d}.npz"
