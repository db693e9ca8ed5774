"""Reads a code store: code sequences with labels, keys and crops, from memory-mapped shards, in any order.

N images, C crops of an image, T codes of a sequence; row r is crop r % C of image r // C.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core.errors import AlitokError
from alitok.core.files import sha256
from alitok.data.codes.shards import ENCODE_AGAIN, JOB, KINDS, MANIFEST, StoreHead, label_type, read_head, read_keys


class CodeStore:
    """A finished store opened for reading: N `images`, C `crops`, T `length`, `image_labels` (N,) uint16 or int32."""

    def __init__(self, path: Path, tokenizer: str | None = None) -> None:
        """Open a store; sizes are checked, checksums only by `verify`. `tokenizer` is a fingerprint; None accepts any.

        Raises:
            AlitokError: the store is missing, unfinished or damaged, or its codes were made with another tokenizer.
        """
        self.path = path
        self.head, self._entries = _read_manifest(path)
        head = self.head
        self.tokenizer, self.codebook_size, self.length = head.tokenizer, head.codebook_size, head.length
        self.classes, self.images, self.crops = head.classes, head.images, len(head.crops)
        if tokenizer is not None and tokenizer != self.tokenizer:
            raise AlitokError(f"The codes in {path} were made with another tokenizer; {ENCODE_AGAIN}.")
        if not self._consistent():
            raise AlitokError(f"{path / MANIFEST} disagrees with its own list of shards; {ENCODE_AGAIN}.")
        self._shard_rows = head.shard_images * self.crops
        labels, self._shards = [], []
        for entry in self._entries:
            codes = path / entry["codes"]["file"], np.dtype("<u2"), (entry["images"] * self.crops, self.length)
            self._shards.append(_load(*codes, mapped=True))
            labels.append(_load(path / entry["labels"]["file"], label_type(len(self.classes)), (entry["images"],)))
        self.image_labels = np.concatenate(labels)
        self._keys: tuple[int, list[str]] = (-1, [])  # of the shard that was read last

    def _consistent(self) -> bool:
        try:
            ranges = [(entry["first"], entry["images"]) for entry in self._entries]
            files = all(entry[kind].keys() >= {"file", "sha256"} for entry in self._entries for kind in KINDS)
        except (KeyError, TypeError, AttributeError):
            return False
        wanted = [self.head.shard(number) for number in range(self.head.shards)]
        return files and bool(self.crops) and ranges == [(part.start, len(part)) for part in wanted]

    def __len__(self) -> int:
        """Number of rows: images times crops."""
        return self.images * self.crops

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of each row, (rows,) int64; `image_labels` is C times smaller."""
        return np.repeat(self.image_labels.astype(np.int64), self.crops)

    def codes(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """The sequences (n, T) uint16 of `rows` (n,), in the given order."""
        wanted = np.asarray(rows, dtype=np.int64)
        assert not wanted.size or 0 <= wanted.min() <= wanted.max() < len(self), "a row is out of range"
        result = np.empty((len(wanted), self.length), np.uint16)
        numbers, offsets = np.divmod(wanted, self._shard_rows)
        # One copy a row: sorting random rows by shard costs more than it saves.
        for place, (number, offset) in enumerate(zip(numbers.tolist(), offsets.tolist(), strict=True)):
            result[place] = self._shards[number][offset]
        return result

    def key(self, image: int) -> str:
        """The name of an image in its source; AlitokError where the file that holds it is damaged."""
        assert 0 <= image < self.images
        number, place = divmod(image, self.head.shard_images)
        if self._keys[0] != number:
            path = self.path / self._entries[number]["keys"]["file"]
            keys = read_keys(path)
            if len(keys) != self._entries[number]["images"]:
                raise AlitokError(f"{path} holds {len(keys)} keys, not as many as its manifest says; {ENCODE_AGAIN}.")
            self._keys = number, keys
        return self._keys[1][place]

    def crop_name(self, row: int) -> str:
        """Which crop a row is, such as "top left, mirrored"."""
        return self.head.crops[row % self.crops]

    def verify(self) -> None:
        """Read all files once and compare them with their checksums; the AlitokError names a damaged one."""
        for entry in self._entries:
            for kind in KINDS:
                path = self.path / entry[kind]["file"]
                if not path.is_file():
                    raise AlitokError(f"{path} is missing; {ENCODE_AGAIN}.")
                if sha256(path) != entry[kind]["sha256"]:
                    raise AlitokError(f"{path} is damaged (wrong checksum); {ENCODE_AGAIN}.")


def _read_manifest(path: Path) -> tuple[StoreHead, list[dict[str, Any]]]:
    if not path.is_dir():
        raise AlitokError(f"There are no codes at {path}; check the path, or encode the images first.")
    with suppress(FileNotFoundError):
        return read_head(path, MANIFEST)
    if (path / JOB).exists():
        raise AlitokError(f"The codes in {path} are unfinished; run the same alitok encode again to resume.")
    raise AlitokError(f"{path} is not a code store: it has no {MANIFEST}; {ENCODE_AGAIN}.")


def _load(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], mapped: bool = False) -> np.ndarray:
    """Read or map a .npy file and check it against the manifest."""
    try:
        array = np.load(path, mmap_mode="r" if mapped else None)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            raise AlitokError(
                f"Too many files are open to read {path.parent}; raise the limit, as with: ulimit -n 4096"
            ) from None
        raise AlitokError(f"{path} is missing or damaged ({error}); {ENCODE_AGAIN}.") from None
    if array.dtype != dtype or array.shape != shape:
        raise AlitokError(
            f"{path} holds {array.dtype} of shape {array.shape}, not {dtype} of shape {shape}; {ENCODE_AGAIN}."
        )
    return array.view(np.ndarray)  # a memmap creates a new memmap per row, which takes longer than the copy
