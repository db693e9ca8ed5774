"""The npz files of ADM's evaluator: images, and Inception statistics of a reference set.

    arr_0           (N, h, h, 3) uint8, the images
    arr_1           (N,) integers, their classes, if known; `alitok fit` calls them labels
    mu, sigma       (2048,), (2048, 2048), of the pool features; in references
    mu_s, sigma_s   (2023,), (2023, 2023), of the spatial features; in some references

Source: Dhariwal and Nichol 2021, https://github.com/openai/guided-diffusion/tree/main/evaluations.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.inception import POOL, SPATIAL
from alitok.metrics.moments import Gaussian

_IMAGES = "arr_0"
_LABELS = ("arr_1", "labels")
_LOCAL_HEAD = 30  # bytes of a zip member's own header, before its name
_SKIP = 1 << 20  # bytes decompressed at a time on the way to a block


class NpzImages:
    """The images of an npz file of any size, read lazily; in any order if the file is uncompressed.

    A compressed file is decompressed up to the block, so reading forward is cheap and going back is not. `side` is in
    px; `labels` (N,) int64, None if the file has none.

    Raises:
        AlitokError: the file is missing or damaged, or its `arr_0` is not N square RGB images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _archive(path) as archive:
            member = _member(archive, _IMAGES, path)
            with archive.open(member) as stream:
                shape, fortran, dtype = _head(stream, path)
                self._begin = stream.tell()
            _require_images(shape, fortran, dtype, path)
            self.count, self.side = shape[0], shape[1]
            if member.file_size != self._begin + self.count * self._bytes:
                raise _damaged(path)
            self._stored_at = _place(path, member)
            self._checksum = (member.CRC, member.file_size)
            names = [name for name in _LABELS if f"{name}.npy" in archive.namelist()]
        self.labels = self._read_labels(names[0]) if names else None
        self._archive: zipfile.ZipFile | None = None
        self._stream: IO[bytes] | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def _bytes(self) -> int:
        return self.side * self.side * 3

    def fingerprint(self) -> str:
        """A short hash of the images and their classes, from the checksums in the file."""
        digest = hashlib.sha256(repr((self._checksum, self.count, self.side)).encode())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()[:16]

    def read(self, rows: range) -> np.ndarray:
        """Consecutive images (B, 3, side, side) uint8, contiguous.

        Raises:
            AlitokError: the file is gone or damaged.
        """
        assert rows.step == 1, rows
        assert 0 <= rows.start <= rows.stop <= self.count, (rows, self.count)
        start, length = self._begin + rows.start * self._bytes, len(rows) * self._bytes
        try:
            if self._stored_at is None:
                data = self._unpack(start, length)
            else:
                with self.path.open("rb") as file:
                    file.seek(self._stored_at + start)
                    data = file.read(length)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
            self._stream = None
            raise _damaged(self.path) from None
        if len(data) != length:
            raise _damaged(self.path)
        pixels = np.frombuffer(data, np.uint8).reshape(len(rows), self.side, self.side, 3)
        return pixels.transpose(0, 3, 1, 2).copy()

    def blocks(self, size: int, first: int = 0) -> Iterator[np.ndarray]:
        """The images from number `first` on in blocks (B, 3, side, side) uint8 of `size`; the last may be smaller."""
        for start in range(first, self.count, size):
            yield self.read(range(start, min(start + size, self.count)))

    def _unpack(self, start: int, length: int) -> bytes:
        if self._stream is None:
            self._archive = zipfile.ZipFile(self.path)
            self._stream = self._archive.open(f"{_IMAGES}.npy")
        if start < self._stream.tell():
            self._stream.seek(0)
        while (ahead := start - self._stream.tell()) > 0:
            if not self._stream.read(min(ahead, _SKIP)):
                raise EOFError
        return self._stream.read(length)

    def _read_labels(self, name: str) -> np.ndarray:
        labels = _arrays(self.path, name)[name]
        if labels.shape != (self.count,) or labels.dtype.kind not in "iu":
            raise AlitokError(
                f"{self.path}: {name} must be {self.count} integers, the images' classes, not {labels.dtype} "
                f"of shape {labels.shape}; correct it or leave it out."
            )
        return labels.astype(np.int64)


@dataclass(frozen=True, eq=False)
class AdmReference:
    """A reference with statistics, images, or both."""

    pool: Gaussian | None  # of the 2048 pool features, for FID
    spatial: Gaussian | None  # of the 2023 spatial features, for sFID
    images: NpzImages | None  # for precision and recall


def load_adm(path: Path) -> AdmReference:
    """Read a reference; its images are read lazily.

    Raises:
        AlitokError: the file is missing or damaged, or holds neither images nor statistics of Inception features.
    """
    pool, spatial = _gaussian(path, "mu", "sigma", POOL), _gaussian(path, "mu_s", "sigma_s", SPATIAL)
    images = NpzImages(path) if _has(path, _IMAGES) else None
    if pool is None and images is None:
        raise AlitokError(f"{path} holds neither mu and sigma nor images (arr_0); use a reference of ADM's evaluator.")
    return AdmReference(pool, spatial, images)


def is_statistics(path: Path) -> bool:
    """Whether an npz file was written by `alitok.metrics.reference`; an error if it is missing or damaged."""
    return _has(path, "about")


def _gaussian(path: Path, mean_name: str, covariance_name: str, dimensions: int) -> Gaussian | None:
    """Checked mean and covariance as float64; None if the file has neither."""
    names, arrays = f"{mean_name} and {covariance_name}", list(_arrays(path, mean_name, covariance_name).values())
    if not arrays:
        return None
    if len(arrays) < 2:
        raise AlitokError(f"{path} has only one of {names}; download the file again.")
    mean, covariance = arrays
    if mean.shape != (dimensions,) or covariance.shape != (dimensions, dimensions):
        raise AlitokError(
            f"{path}: {names} have the shapes {mean.shape} and {covariance.shape}, but Inception has {dimensions} such "
            "features; use a reference of ADM's evaluator."
        )
    if any(part.dtype.kind != "f" or not np.isfinite(part).all() for part in arrays):
        raise AlitokError(f"{path}: {names} are not finite numbers; download the file again.")
    return Gaussian(*(torch.from_numpy(part.astype(np.float64)) for part in arrays))


def _head(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type in the header of a .npy file; the stream is left at the data."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        return readers[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError):
        raise _damaged(path) from None


def _require_images(shape: tuple[int, ...], fortran: bool, dtype: np.dtype, path: Path) -> None:
    found = None
    if dtype.hasobject:
        found = "Python objects, which are not loaded for safety"
    elif len(shape) == 3 or (len(shape) == 4 and shape[3] == 1):
        found = f"grayscale images of shape {shape}; save them as RGB, with three equal channels"
    elif len(shape) != 4 or shape[3] != 3:
        found = f"shape {shape}"
    elif dtype != np.uint8:
        found = f"values of type {dtype}"
    elif shape[1] != shape[2]:
        found = f"images of {shape[1]} x {shape[2]} px"
    elif 0 in shape:
        found = "no images"
    elif fortran:
        found = "them in Fortran order; save np.ascontiguousarray(images)"
    if found is not None:
        raise AlitokError(f"{path}: arr_0 must be images (N, h, h, 3) uint8 and holds {found}.")


def _has(path: Path, name: str) -> bool:
    with _archive(path) as archive:
        return f"{name}.npy" in archive.namelist()


def _arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Those of the named arrays that exist; pickled ones are an error."""
    with _archive(path) as archive:
        arrays = {}
        for name in names:
            if f"{name}.npy" in archive.namelist():
                with archive.open(f"{name}.npy") as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open npz file; whatever is wrong with it becomes an AlitokError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except AlitokError:
        raise
    except FileNotFoundError:
        raise AlitokError(f"{path} does not exist; check the path.") from None
    # zipfile: NotImplementedError of an unknown compression, RuntimeError of a member that needs a password.
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise _damaged(path) from None


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{name}.npy")
    except KeyError:
        there = ", ".join(sorted(Path(other).stem for other in archive.namelist())) or "nothing"
        raise AlitokError(f"{path} has no array {name} with images (N, h, h, 3) uint8; it holds {there}.") from None


def _place(path: Path, member: zipfile.ZipInfo) -> int | None:
    """Offset of a member's bytes in the file; None if it is compressed."""
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        head = file.read(_LOCAL_HEAD)
    name, extra = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    return member.header_offset + _LOCAL_HEAD + name + extra


def _damaged(path: Path) -> AlitokError:
    return AlitokError(f"{path} is damaged or not an npz file of numbers; restore it or create it again.")
