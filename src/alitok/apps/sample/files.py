"""What a job of `alitok sample` leaves on disk, and what of it an earlier start left.

Enters: drawn blocks. Leaves: one image file each in class folders, or one archive in the form of ADM's evaluation.

    OUT/sample.json               what decides the images
    OUT/CLASS/000123.png          an image, numbered through the whole job
    OUT/samples.npz               instead: arr_0 (N, h, h, 3) uint8, arr_1 (N,) int64 class numbers
    OUT/parts/part-00000.npy      a block of it, until the archive is whole

With `--out X.npz` the last two are X.npz and X.parts/, and the first is X.sample.json.
Shapes: N images, B of a block, h image side.
"""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from alitok.apps.sample.options import SampleFormat
from alitok.core import images as pixels
from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.config import config, from_dict, to_dict
from alitok.core.device import Precision
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, read_json, remove, write_json
from alitok.data.sources.images import TRAIN, VAL, normal
from alitok.sampling import SamplingConfig
from alitok.sampling.settings import EnginePrecision

_WRITERS = min(8, os.cpu_count() or 1)  # threads that compress images while the next are drawn
_DIGITS = 6
_LEFTOVER = r"\.{name}\.[A-Za-z0-9-]+\.part"  # of a process that was killed
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
_LONGEST = 120  # bytes of a folder's name
_ITEMS_TOLD = 5


@config
class SampleHead:
    """All that decides the files of a job.

    Attributes:
        model: hash of the weights that draw.
        alitok: version of this package.
        classes: class numbers in the order in which they take turns.
        count: images in all.
        seed: of all images.
        sampling: guidance and filters.
        precision: of the engine that draws codes.
        pixels: of the decoder; decided by the first start.
        format: of the files.
        image_size: pixels a side.
        folders: name of each class's folder.
        block: images that are drawn as a whole; decided by the first start.
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
        """Refuse folders that would lie elsewhere: what a manifest names is written to, and deleted by --fresh."""
        for folder in self.folders:
            if not folder or _UNSAFE.search(folder) or folder != folder.strip(" ."):
                raise AlitokError(f"folders holds {folder!r}, which is no name of a folder")

    @property
    def blocks(self) -> Blocks:
        """The job's images in blocks."""
        return Blocks(self.count, self.block)

    def file(self, image: int) -> str:
        """The path of an image below OUT."""
        digits = max(_DIGITS, len(str(self.count - 1)))
        return f"{self.folders[image % len(self.folders)]}/{image:0{digits}d}.{self.format}"

    def difference(self, asked: SampleHead) -> str | None:
        """The first setting in which this job is not the one asked for, in words."""
        ours, theirs = _settings(self), _settings(asked)
        for name, value in ours.items():
            if value != theirs[name]:
                return f"{name} {_told(value)}, not {_told(theirs[name])}"
        return None


def _settings(head: SampleHead) -> dict[str, object]:
    found = {field.name: getattr(head, field.name) for field in dataclasses.fields(head)}
    for apart in ("pixels", "block", "sampling"):
        del found[apart]
    return {**found, **to_dict(head.sampling)}


def _told(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    more = f" ... ({len(value)})" if len(value) > _ITEMS_TOLD else ""
    return ", ".join(map(str, value[:_ITEMS_TOLD])) + more


def class_folders(names: Iterable[str], count: int) -> tuple[str, ...]:
    """A folder's name for each class: the class's own, where every class has one that any file system takes.

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


def is_archive(out: Path) -> bool:
    """Whether `--out` names one file, and not a directory."""
    return out.suffix.lower() == ".npz"


@dataclasses.dataclass(frozen=True)
class SamplePlace:
    """Where a job's files are.

    Attributes:
        root: the directory they are in.
        manifest: what decides the images.
        archive: the npz file.
        parts: the directory of its blocks.
        whole_root: whether all that is in `root` belongs to the job.
    """

    root: Path
    manifest: Path
    archive: Path
    parts: Path
    whole_root: bool

    @classmethod
    def of(cls, out: Path) -> SamplePlace:
        """The place that `--out` means: an archive if it ends in .npz, else a directory."""
        if is_archive(out):
            return cls(out.parent, out.with_suffix(".sample.json"), out, out.with_suffix(".parts"), False)
        return cls(out, out / "sample.json", out / "samples.npz", out / "parts", True)

    @property
    def out(self) -> Path:
        """What the user knows it by."""
        return self.root if self.whole_root else self.archive

    def find(self) -> SampleHead | None:
        """The job that was begun or finished here; None where there is nothing yet.

        Raises:
            AlitokError: there is something else, or its manifest is damaged.
        """
        if self.manifest.exists():
            return _read_head(self.manifest)
        if self.root.exists() and not self.root.is_dir():
            raise AlitokError(f"{self.root} is a file; give a directory, or a file that ends in .npz, with --out.")
        if self.whole_root:
            beginning = re.compile(_LEFTOVER.format(name=re.escape(self.manifest.name)))
            foreign = self.root.exists() and any(not beginning.fullmatch(path.name) for path in self.root.iterdir())
        else:
            foreign = self.archive.exists() or self.parts.exists()
        if foreign:
            raise AlitokError(
                f"{self.out} holds something that `alitok sample` did not write; give another place with --out."
            )
        return None

    def begin(self, asked: SampleHead, found: SampleHead | None) -> SampleHead:
        """Note what the files will be, or go on with what was begun.

        Args:
            asked: the job of this start.
            found: that of an earlier one.

        Raises:
            AlitokError: that was another job.
        """
        if found is None:
            write_json(self.manifest, {"kind": "samples", **to_dict(asked)})
            return asked
        different = found.difference(asked)
        if different is not None:
            raise AlitokError(
                f"{self.out} holds images of another job ({different}); "
                "start over with --fresh, or choose another place with --out."
            )
        return found

    def discard(self) -> None:
        """Delete what a job wrote here; all else stays. The manifest stays until another is written over it.

        Raises:
            AlitokError: there is something else.
        """
        head = self.find()
        if head is None:
            return
        with open_files(self, head) as files:
            files.discard()


def _read_head(path: Path) -> SampleHead:
    found = read_json(path)
    if not isinstance(found, dict) or found.pop("kind", None) != "samples":
        raise AlitokError(f"{path} was not written by `alitok sample`; give another place with --out.")
    try:
        return from_dict(SampleHead, found, str(path))
    except AlitokError as error:
        raise AlitokError(f"{str(error).rstrip('.')}; {path} is damaged or of another version: delete it.") from None


class ImageFiles:
    """Images in files of their own; `write` returns before they are written.

    Args:
        place: of the job.
        head: of the job.
    """

    def __init__(self, place: SamplePlace, head: SampleHead) -> None:
        self._root, self._head = place.root, head
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._under_way: list[Future[None]] = []

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)

    def missing(self) -> list[int]:
        """The numbers of the blocks of which an image is missing."""
        there = {f"{folder}/{name}" for folder in self._head.folders for name in _names(self._root / folder)}
        gone = (number for number in range(self._head.count) if self._head.file(number) not in there)
        return sorted({number // self._head.block for number in gone})

    def write(self, block: ImageBlock) -> None:
        """Write the images of a block that are not there yet; waits for the block before."""
        self.wait()
        for number, image in zip(block.indices, block.images, strict=True):
            path = self._root / self._head.file(number)
            if not path.exists():
                self._under_way.append(self._pool.submit(_write_image, path, image, self._head.format))

    def wait(self) -> None:
        """Until all that was given is written; an error of a writer is raised here."""
        for written in self._under_way:
            written.result()
        self._under_way = []

    def finish(self) -> None:
        """Take away what killed processes left half written."""
        for folder in self._head.folders:
            _remove_matching(self._root / folder, _LEFTOVER.format(name=rf"\d+\.{self._head.format}"))

    def discard(self) -> None:
        """Delete the images, and their folders where nothing else is in them."""
        self.finish()
        for number in range(self._head.count):
            remove(self._root / self._head.file(number))
        for folder in self._head.folders:
            if (self._root / folder).is_dir() and not _names(self._root / folder):
                (self._root / folder).rmdir()


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _remove_matching(folder: Path, pattern: str) -> None:
    for name in _names(folder):
        if re.fullmatch(pattern, name):
            remove(folder / name)


def _write_image(path: Path, image: np.ndarray, file_format: str) -> None:
    with atomic_path(path) as part:
        # "lossless" is for WebP, which PNG does not ask about.
        pixels.to_pil(image).save(part, format=file_format.upper(), lossless=True)


class ArchiveFile:
    """Images in one npz file, made of parts when all are there.

    Args:
        place: of the job.
        head: of the job.
    """

    def __init__(self, place: SamplePlace, head: SampleHead) -> None:
        self._place, self._head = place, head

    def __enter__(self) -> ArchiveFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def missing(self) -> list[int]:
        """The numbers of the blocks that are neither in the archive nor a part."""
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
        """Put the parts together, unless that was done, and take them away."""
        archived = self._place.archive
        _remove_matching(archived.parent, _LEFTOVER.format(name=re.escape(archived.name)))
        if not archived.exists():
            with atomic_path(archived) as part, zipfile.ZipFile(part, "w") as archive:
                self._write_members(archive)
        self._remove_parts()

    def discard(self) -> None:
        """Delete the archive and its parts."""
        remove(self._place.archive)
        self._remove_parts()

    def _part(self, number: int) -> Path:
        return self._place.parts / f"part-{number:05d}.npy"

    def _write_members(self, archive: zipfile.ZipFile) -> None:
        """One part in memory at a time."""
        head, side = self._head, self._head.image_size
        with _member(archive, "arr_0.npy", (head.count, side, side, 3), "|u1") as member:
            for number in range(len(head.blocks)):
                images = _load_part(self._part(number))
                if images is None or images.shape != (len(head.blocks[number]), side, side, 3):
                    raise AlitokError(f"{self._part(number)} is damaged; delete it and run the same command again.")
                member.write(images.tobytes())
        labels = np.array(head.classes, "<i8")[np.arange(head.count) % len(head.classes)]
        with _member(archive, "arr_1.npy", labels.shape, "<i8") as member:
            member.write(labels.tobytes())

    def _remove_parts(self) -> None:
        name = r"part-\d+\.npy"
        _remove_matching(self._place.parts, f"{name}|{_LEFTOVER.format(name=name)}")
        if self._place.parts.is_dir() and not _names(self._place.parts):
            self._place.parts.rmdir()


def _load_part(path: Path) -> np.ndarray | None:
    """What numpy reads as bytes of images; None where it does not."""
    try:
        images = np.load(path)
    except (ValueError, EOFError):
        return None
    return images if images.dtype == np.uint8 else None


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: str) -> IO[bytes]:
    """An npy file within an archive, its header written; without a date, so that equal images give equal bytes."""
    member = archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


def open_files(place: SamplePlace, head: SampleHead) -> ImageFiles | ArchiveFile:
    """What writes the files of a job."""
    return ArchiveFile(place, head) if head.format == "npz" else ImageFiles(place, head)
