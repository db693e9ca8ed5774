"""The code store: code sequences with labels, in a directory of .npy shards that are read through memory maps.

    manifest.json        what is inside, made by which tokenizer, with a checksum of every file
    codes-00000.npy      (rows, T) uint16
    labels-00000.npy     (rows,) int32

Rows are ordered picture by picture: all crops of picture 0, then all of picture 1, and so on over all shards.
Shapes: B rows of a batch, T codes of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, read_json, sha256, write_json

FORMAT = 1
MAX_CODEBOOK = 1 << 16  # what uint16 can tell apart

_MANIFEST = "manifest.json"
_MANIFEST_KEYS = {"format", "sequences", "length", "codebook_size", "crops", "classes", "tokenizer", "shards"}


def write_codes(
    out: Path,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    codebook_size: int,
    classes: Sequence[str],
    tokenizer: str,
    crops: int = 1,
    shard_rows: int = 1 << 20,
) -> None:
    """Write a store; it appears whole or not at all, and replaces one that stands there.

    Memory holds one batch at a time, whatever the size of a shard.

    Args:
        out: the directory to make.
        batches: codes (B, T) of 0 <= code < codebook_size and labels (B,), in the order of the rows.
        codebook_size: number of codes the tokenizer has.
        classes: class names; labels are indices into them.
        tokenizer: hash of the tokenizer that made the codes.
        crops: rows per picture.
        shard_rows: most rows in one file.

    Raises:
        AlitokError: the codebook is too large for 16 bits, or there are no batches.
    """
    if codebook_size > MAX_CODEBOOK:
        raise AlitokError(f"A codebook of {codebook_size:,} entries is too large to store; {MAX_CODEBOOK:,} at most.")
    assert min(crops, shard_rows) >= 1
    with atomic_path(out) as part:
        part.mkdir()
        shards: list[_ShardWriter] = []
        for codes, labels in batches:
            _check(codes, labels, codebook_size, len(classes))
            while len(codes):
                if not shards or shards[-1].rows == shard_rows:
                    if shards:
                        shards[-1].close()
                    shards.append(_ShardWriter(part, len(shards), codes.shape[1]))
                room = shard_rows - shards[-1].rows
                shards[-1].append(codes[:room], labels[:room])
                codes, labels = codes[room:], labels[room:]
        if not shards:
            raise AlitokError(f"There are no codes to write to {out}; the source of pictures is empty.")
        shards[-1].close()
        sequences = sum(shard.rows for shard in shards)
        assert sequences % crops == 0, "the last picture lacks crops"
        manifest = {
            "format": FORMAT,
            "sequences": sequences,
            "length": shards[0].length,
            "codebook_size": codebook_size,
            "crops": crops,
            "classes": list(classes),
            "tokenizer": tokenizer,
            "shards": [shard.entry() for shard in shards],
        }
        write_json(part / _MANIFEST, manifest)


def _check(codes: np.ndarray, labels: np.ndarray, codebook_size: int, classes: int) -> None:
    assert (codes.ndim, labels.ndim, len(labels)) == (2, 1, len(codes)), "codes (B, T) and labels (B,) are needed"
    for values, end in ((codes, codebook_size), (labels, classes)):
        assert not values.size or 0 <= values.min() <= values.max() < end, "a code or label is out of range"


class _ShardWriter:
    """One pair of .npy files to which rows are appended; the header is written again when their number is known."""

    def __init__(self, directory: Path, number: int, length: int) -> None:
        self.codes_path = directory / f"codes-{number:05d}.npy"
        self.labels_path = directory / f"labels-{number:05d}.npy"
        self.length = length
        self.rows = 0
        self._labels: list[np.ndarray] = []
        self._write_header("xb")

    def append(self, codes: np.ndarray, labels: np.ndarray) -> None:
        assert codes.shape[1] == self.length, "all sequences of a store have one length"
        with self.codes_path.open("ab") as file:
            file.write(np.ascontiguousarray(codes, dtype="<u2").data)
        self._labels.append(labels.astype("<i4"))
        self.rows += len(codes)

    def close(self) -> None:
        before = self.codes_path.stat().st_size
        self._write_header("r+b")
        assert self.codes_path.stat().st_size == before
        np.save(self.labels_path, np.concatenate(self._labels))
        self._labels.clear()

    def entry(self) -> dict[str, Any]:
        return {
            "file": self.codes_path.name,
            "labels": self.labels_path.name,
            "rows": self.rows,
            "sha256": sha256(self.codes_path),
            "labels_sha256": sha256(self.labels_path),
        }

    def _write_header(self, mode: str) -> None:
        # numpy pads the header so that the number of rows can grow to any size in place
        header = {"descr": "<u2", "fortran_order": False, "shape": (self.rows, self.length)}
        with self.codes_path.open(mode) as file:
            np.lib.format.write_array_header_1_0(file, header)


class CodeStore:
    """A store opened for reading.

    Attributes:
        path: its directory.
        labels: (rows,) int64.
        classes: class names.
        codebook_size: number of codes the tokenizer has.
        length: T, codes per sequence.
        crops: rows per picture; rows p * crops to (p + 1) * crops - 1 are those of picture p.
        tokenizer: hash of the tokenizer that made the codes.
    """

    def __init__(self, path: Path, tokenizer: str | None = None) -> None:
        """Open a store; sizes are checked, checksums only by `verify`.

        Args:
            path: its directory.
            tokenizer: hash of the tokenizer in use; None accepts codes of any.

        Raises:
            AlitokError: the store is missing or damaged, or its codes were made with another tokenizer.
        """
        self.path = path
        manifest = _read_manifest(path)
        self.tokenizer: str = manifest["tokenizer"]
        if tokenizer is not None and tokenizer != self.tokenizer:
            raise AlitokError(f"The codes in {path} were made with another tokenizer; encode the pictures again.")
        self.codebook_size: int = manifest["codebook_size"]
        self.length: int = manifest["length"]
        self.crops: int = manifest["crops"]
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self._entries: list[dict[str, Any]] = manifest["shards"]
        rows = [entry["rows"] for entry in self._entries]
        self._shards = [
            _open_array(path / entry["file"], np.dtype("<u2"), (entry["rows"], self.length)) for entry in self._entries
        ]
        labels = [_open_array(path / entry["labels"], np.dtype("<i4"), (entry["rows"],)) for entry in self._entries]
        self.labels = np.concatenate(labels).astype(np.int64)
        self._ends = np.cumsum(rows)
        if len(self.labels) != manifest["sequences"] or len(self.labels) % self.crops:
            raise AlitokError(f"{path / _MANIFEST} disagrees with its own list of shards; encode the pictures again.")

    def __len__(self) -> int:
        """Number of rows: pictures times crops."""
        return len(self.labels)

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return len(self) // self.crops

    def codes(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """The sequences (n, T) uint16 of `rows` (n,), in the order asked for."""
        wanted = np.asarray(rows, dtype=np.int64)
        assert not wanted.size or 0 <= wanted.min() <= wanted.max() < len(self), "a row is out of range"
        result = np.empty((len(wanted), self.length), np.uint16)
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(shard_of):
            here = np.flatnonzero(shard_of == number)
            first = self._ends[number] - len(self._shards[number])
            result[here] = self._shards[number][wanted[here] - first]
        return result

    def verify(self) -> None:
        """Read all files once and compare them with their checksums.

        Raises:
            AlitokError: a file differs from what was written; the message names it.
        """
        for entry in self._entries:
            for file, checksum in (("file", "sha256"), ("labels", "labels_sha256")):
                damaged = self.path / entry[file]
                if sha256(damaged) != entry[checksum]:
                    raise AlitokError(f"{damaged} is damaged (wrong checksum); encode the pictures again.")


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise AlitokError(f"There are no codes at {path}; check the path, or encode the pictures first.")
    if not (path / _MANIFEST).is_file():
        raise AlitokError(f"{path} is no code store: it has no {_MANIFEST}; encode the pictures again.")
    manifest = read_json(path / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise AlitokError(f"{path / _MANIFEST} is not of format {FORMAT}; encode the pictures again.")
    missing = _MANIFEST_KEYS - manifest.keys()
    if missing or not manifest["shards"]:
        what = ", ".join(sorted(missing)) or "shards"
        raise AlitokError(f"{path / _MANIFEST} is damaged: it lacks {what}; encode the pictures again.")
    return manifest


def _open_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Map a .npy file, having checked that it is what the manifest says."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise AlitokError(f"{path} is missing or damaged ({error}); encode the pictures again.") from None
    if array.dtype != dtype or array.shape != shape:
        raise AlitokError(
            f"{path} holds {array.dtype} of shape {array.shape}, its manifest says {dtype} of shape {shape}; "
            "encode the pictures again."
        )
    return array
