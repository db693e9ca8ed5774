"""The files of `alitok sample`: image files in class folders, or one archive in the form of ADM's evaluation.

    OUT/sample.json               what decides the images
    OUT/CLASS/000123.png          an image, numbered through the whole job
    OUT/samples.npz               instead: arr_0 (N, h, h, 3) uint8, arr_1 (N,) int64 class numbers
    OUT/parts/part-00000.npy      a block of it, until the archive is complete

With `--out X.npz` the last two are X.npz and X.parts/, and the first is X.sample.json.
Shapes: N images, B of a block, h image side.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from alitok.apps.sample.options import SampleFormat
from alitok.core import images as pixels
from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.config import config, from_dict
from alitok.core.device import Precision
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, remove
from alitok.core.jobdir import JobDir
from alitok.data.sources.images import TRAIN, VAL, normal
from alitok.sampling import SamplingConfig
from alitok.sampling.settings import EnginePrecision

_WRITERS = min(8, os.cpu_count() or 1)  # threads that compress images while the next are sampled
_DIGITS = 6
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
_LONGEST = 120  # bytes of a folder's name


@config
class SampleHead:
    """All that decides the files of a job.

    `model` is the hash of the weights, `classes` the class numbers in turn, `folders` each class's folder, and
    `image_size` in px. The first start decides `pixels`, the decoder's precision, and `block`, the images per block.
    """

    model: str
    alitok: str
    classes: tuple[int, ...]
    count: int
    seed: int
    sampling: SamplingConfig
    precision: EnginePrecision
    pixels: Precision
    format: SampleFormat
    image_size: int
    folders: tuple[str, ...]
    block: int

    def __post_init__(self) -> None:
        """Reject folders outside OUT: what a manifest names is written to, and deleted by --fresh."""
        for folder in self.folders:
            if not folder or _UNSAFE.search(folder) or folder != folder.strip(" ."):
                raise AlitokError(f"folders holds {folder!r}, which is not a valid folder name")

    @property
    def blocks(self) -> Blocks:
        """The job's images in blocks."""
        return Blocks(self.count, self.block)

    def file(self, image: int) -> str:
        """The path of an image below OUT."""
        digits = max(_DIGITS, len(str(self.count - 1)))
        return f"{self.folders[image % len(self.folders)]}/{image:0{digits}d}.{self.format}"


def class_folders(names: Iterable[str], count: int) -> tuple[str, ...]:
    """A folder's name for each class: the class names if all are distinct and valid on any file system.

    Otherwise all are numbered, as in `207_golden retriever`; classes without names are numbers.
    """
    names = [normal(name) for name in names]
    if not names:
        return tuple(map(str, range(count)))
    plain = all(name and name == _safe(name) and name not in (TRAIN, *VAL) for name in names)
    if plain and len({name.casefold() for name in names}) == len(names):
        return tuple(names)
    digits = len(str(count - 1))
    return tuple(f"{number:0{digits}d}_{_safe(name)}".rstrip("_ .") for number, name in enumerate(names))


def _safe(name: str) -> str:
    short = _UNSAFE.sub("_", name).encode()[:_LONGEST].decode(errors="ignore")
    return short.strip(" .")


@dataclasses.dataclass(frozen=True)
class SamplePlace:
    """Where a job's files are: the directory `out`, or an archive `out` in a directory that holds files of others."""

    out: Path

    @property
    def archived(self) -> bool:
        """Whether `out` is one file."""
        return self.out.suffix.lower() == ".npz"

    @property
    def root(self) -> Path:
        """The directory of all files."""
        return self.out.parent if self.archived else self.out

    @property
    def archive(self) -> Path:
        """The npz file."""
        return self.out if self.archived else self.out / "samples.npz"

    @property
    def parts(self) -> Path:
        """The directory of the archive's blocks until it is complete."""
        return self.out.with_suffix(".parts") if self.archived else self.out / "parts"

    def job_dir(self, head: SampleHead | None = None) -> JobDir:
        """The job directory; `head` decides the names of its outputs."""
        archive, parts = glob.escape(self.archive.name), glob.escape(self.parts.name)
        outputs = [self.archive.name, f".{archive}.*.part", f"{parts}/part-*.npy", f"{parts}/.part-*.part"]
        if head is not None and head.format != "npz":
            outputs = [head.file(number) for number in range(head.count)]
            outputs += [f"{glob.escape(folder)}/.*.{head.format}.*.part" for folder in head.folders]
        name = self.out.with_suffix(".sample.json").name if self.archived else "sample.json"
        decided = ("pixels", "block")
        return JobDir(
            self.root, name, "sample", tuple(outputs), {"kind": "samples"}, decided=decided, shared=self.archived
        )

    def read(self) -> SampleHead | None:
        """The job that was begun or finished here; or None.

        Raises:
            AlitokError: there is something else, or its manifest is damaged.
        """
        found = self.job_dir().read()
        if found is not None:
            return to_head(found, self.job_dir().path)
        if self.archived and self.parts.exists():
            raise AlitokError(f"{self.parts} exists and was not written by alitok sample; give another --out.")
        return None


def to_head(manifest: Mapping[str, Any], path: Path) -> SampleHead:
    """The job that a manifest describes.

    Raises:
        AlitokError: it is damaged or of another version.
    """
    try:
        return from_dict(SampleHead, {name: value for name, value in manifest.items() if name != "kind"}, str(path))
    except AlitokError as error:
        raise AlitokError(f"{str(error).rstrip('.')}; {path} is damaged or of another version: delete it.") from None


class ImageFiles:
    """One file per image, written by the threads of `pool`; `write` returns before they are written."""

    def __init__(self, place: SamplePlace, head: SampleHead, pool: ThreadPoolExecutor) -> None:
        self._root, self._head, self._pool = place.root, head, pool
        self._under_way: list[Future[None]] = []

    def missing(self) -> list[int]:
        """The numbers of blocks with a missing image."""
        there = {f"{folder}/{name}" for folder in self._head.folders for name in _names(self._root / folder)}
        gone = (number for number in range(self._head.count) if self._head.file(number) not in there)
        return sorted({number // self._head.block for number in gone})

    def write(self, block: ImageBlock) -> None:
        """Write the images of a block that are missing; waits for the previous block."""
        self.wait()
        for number, image in zip(block.indices, block.images, strict=True):
            path = self._root / self._head.file(number)
            if not path.exists():
                self._under_way.append(self._pool.submit(_write_image, path, image, self._head.format))

    def wait(self) -> None:
        """Wait until everything is written; raises a writer's error."""
        for written in self._under_way:
            written.result()
        self._under_way = []

    def finish(self) -> None:
        """Delete what killed processes left half-written."""
        for folder in self._head.folders:
            _remove_matching(self._root / folder, f".*.{self._head.format}.*.part")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _remove_matching(folder: Path, pattern: str) -> None:
    for path in list(folder.glob(pattern)):
        remove(path)


def _write_image(path: Path, image: np.ndarray, file_format: str) -> None:
    with atomic_path(path) as part:
        # "lossless" is an option of WebP, which PNG ignores.
        pixels.to_pil(image).save(part, format=file_format.upper(), lossless=True)


class ArchiveFile:
    """One npz file, assembled from parts when all are there."""

    def __init__(self, place: SamplePlace, head: SampleHead) -> None:
        self._place, self._head = place, head

    def missing(self) -> list[int]:
        """The numbers of blocks without a part, unless the archive exists."""
        if self._place.archive.exists():
            return []
        return [number for number in range(len(self._head.blocks)) if not self._part(number).exists()]

    def write(self, block: ImageBlock) -> None:
        """Write one part."""
        with atomic_path(self._part(block.number)) as part, part.open("wb") as file:
            np.save(file, np.ascontiguousarray(block.images.transpose(0, 2, 3, 1)))

    def wait(self) -> None:
        """Everything is written already."""

    def finish(self) -> None:
        """Assemble the archive, unless it exists, and delete the parts."""
        archived = self._place.archive
        _remove_matching(archived.parent, f".{glob.escape(archived.name)}.*.part")
        if not archived.exists():
            with atomic_path(archived) as part, zipfile.ZipFile(part, "w") as archive:
                self._write_members(archive)
        for pattern in ("part-*.npy", ".part-*.part"):
            _remove_matching(self._place.parts, pattern)
        if self._place.parts.is_dir() and not _names(self._place.parts):
            self._place.parts.rmdir()

    def _part(self, number: int) -> Path:
        return self._place.parts / f"part-{number:05d}.npy"

    def _write_members(self, archive: zipfile.ZipFile) -> None:
        """One part in memory at a time."""
        head, side = self._head, self._head.image_size
        with _member(archive, "arr_0.npy", (head.count, side, side, 3), "|u1") as member:
            for number in range(len(head.blocks)):
                member.write(self._load_part(number).tobytes())
        labels = np.array(head.classes, "<i8")[np.arange(head.count) % len(head.classes)]
        with _member(archive, "arr_1.npy", labels.shape, "<i8") as member:
            member.write(labels.tobytes())

    def _load_part(self, number: int) -> np.ndarray:
        path, side = self._part(number), self._head.image_size
        with suppress(ValueError, EOFError):
            images = np.load(path)
            if images.dtype == np.uint8 and images.shape == (len(self._head.blocks[number]), side, side, 3):
                return images
        raise AlitokError(f"{path} is damaged; delete it and rerun the same command.")


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: str) -> IO[bytes]:
    """An npy file in an archive, after its header; without a date, so that equal images give equal bytes."""
    member = archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


@contextmanager
def open_files(place: SamplePlace, head: SampleHead) -> Iterator[ImageFiles | ArchiveFile]:
    """The writer of a job's files; after an error, nothing more is written."""
    with ThreadPoolExecutor(_WRITERS) as pool:
        try:
            yield ArchiveFile(place, head) if head.format == "npz" else ImageFiles(place, head, pool)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
