"""Where the images of a tar archive stand.

Enters: an archive, of which headers and label files are read and images passed over. Leaves: `ArchiveIndex`.

Members that share their path up to the first dot of the last part are one sample: `a/0001.jpg` and `a/0001.cls`. Its
class is in `.cls` or `.cls.txt`, or in `.json` under `label`, `class` or `cls`. Of a sample's images the first with
nothing before its ending counts (`0001.jpg`, not `0001.mask.png`); where there is none, each does. Others are counted.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

from alitok.core.errors import AlitokError
from alitok.data.sources.images import SUFFIXES, Broken, Strings, is_image
from alitok.data.sources.labels_file import label_name

_BLOCK = 512  # bytes; an archive ends with blocks of zeros
_CLASS_ENDINGS = ("cls", "cls.txt")
_LABEL_KEYS = ("label", "class", "cls")
_MOST_LABEL_BYTES = 1 << 20  # of a file that holds a label


@dataclass
class ArchiveIndex:
    """Where the images of one archive stand.

    Attributes:
        keys: (n,) names of members.
        labels: (n,) what the archive itself says of the class; empty where nothing.
        offsets: (n,) int64 of the first byte.
        sizes: (n,) int64 in bytes.
        problems: what of the archive cannot be used, by name of member, or by an empty name for the archive itself.
        surplus: how many images are not used because another one of their sample counts.
        example: the name of the first of these; empty where there is none.
    """

    keys: Strings
    labels: Strings
    offsets: np.ndarray
    sizes: np.ndarray
    problems: tuple[Broken, ...] = ()
    surplus: int = 0
    example: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def says_labels(self) -> bool:
        """Whether the archive itself says the class of some image."""
        return bool(self.labels.to_arrays()[0].size)

    def to_bytes(self) -> bytes:
        """For `from_bytes`."""
        arrays = {"offsets": self.offsets, "sizes": self.sizes}
        for name in ("keys", "labels"):
            arrays[name], arrays[f"{name}_ends"] = getattr(self, name).to_arrays()
        rest = {"problems": self.problems, "surplus": self.surplus, "example": self.example}
        arrays["rest"] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> ArchiveIndex:
        """What `to_bytes` returned, as it was; anything else raises."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            keys, labels = (Strings.from_arrays(arrays[name], arrays[f"{name}_ends"]) for name in ("keys", "labels"))
            rest = json.loads(arrays["rest"].tobytes())
            problems = tuple(Broken(*pair) for pair in rest["problems"])
            return cls(keys, labels, arrays["offsets"], arrays["sizes"], problems, rest["surplus"], rest["example"])


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


@dataclass
class _Sample:
    """Members that share a stem."""

    images: list[_Member] = field(default_factory=list)
    plain: _Member | None = None  # the first whose whole ending is that of an image, as in 0001.jpg
    label: _Member | None = None


def index_archive(file: BinaryIO, name: str) -> ArchiveIndex:
    """Read the headers of an archive, and the small files that hold labels; `name` is for messages.

    Raises:
        AlitokError: it is no tar archive, or a compressed one.
        OSError: it cannot be read.
    """
    samples: dict[str, _Sample] = {}
    problems = []
    for member in _members(file, name):
        if isinstance(member, Broken):
            problems.append(member)
        else:
            _sort_in(samples, member)
    rows, labels = [], []
    surplus, example = 0, ""
    for sample in samples.values():
        if sample.plain is not None and len(sample.images) > 1:
            surplus += len(sample.images) - 1
            example = example or next(other.name for other in sample.images if other is not sample.plain)
        label = _read_label(file, sample.label, problems) if sample.label and sample.images else ""
        for image in [sample.plain] if sample.plain else sample.images:
            if label is not None:
                rows.append(image)
                labels.append(label)
    return ArchiveIndex(
        Strings(row.name for row in rows),
        Strings(labels),
        np.array([row.offset for row in rows], np.int64),
        np.array([row.size for row in rows], np.int64),
        tuple(problems),
        surplus,
        example,
    )


def _sort_in(samples: dict[str, _Sample], member: _Member) -> None:
    folder, name = posixpath.split(member.name)
    stem, _, ending = name.partition(".")
    ending = ending.lower()
    sample = samples.setdefault(f"{folder}/{stem}", _Sample())
    if is_image(name):
        sample.images.append(member)
        if sample.plain is None and f".{ending}" in SUFFIXES:
            sample.plain = member
    elif ending in _CLASS_ENDINGS or (ending == "json" and sample.label is None):
        sample.label = member


def _members(file: BinaryIO, archive_name: str) -> Iterator[_Member | Broken]:
    """The files of an archive that are not hidden, and what is wrong with the archive."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (closing it would change nothing)
    except tarfile.ReadError:
        raise AlitokError(f"{archive_name} is {_what(file)}; give an uncompressed tar archive, or unpack it.") from None
    while True:
        try:
            member = archive.next()
        except (tarfile.TarError, OSError, ValueError):
            yield Broken("", "is damaged: what follows its last readable header is not used")
            return
        if member is None:
            break
        archive.members = []  # type: ignore[attr-defined]  # it would keep all
        if member.offset_data + member.size > end:
            yield Broken(posixpath.normpath(member.name), "is cut short: its archive ends too early")
            return
        name = posixpath.normpath(member.name)
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if member.isreg():
            yield _Member(name, member.offset_data, member.size)
        elif (member.issym() or member.islnk()) and is_image(posixpath.basename(name)):
            yield Broken(name, "is a link inside its archive; pack the file itself (tar -h --hard-dereference)")
    file.seek(archive.offset)
    last = file.read(_BLOCK)
    if not last or last.strip(b"\0"):
        yield Broken("", "does not end as an archive should: images at its end may be missing")


def _what(file: BinaryIO) -> str:
    file.seek(0)
    first = file.read(6)
    if not first:
        return "empty"
    starts = {b"\x1f\x8b": "compressed", b"BZh": "compressed", b"\xfd7zXZ": "compressed", b"(\xb5/\xfd": "compressed"}
    starts |= {b"PK": "a zip archive"}
    return next((what for start, what in starts.items() if first.startswith(start)), "no tar archive, or damaged")


def _read_label(file: BinaryIO, member: _Member, problems: list[Broken]) -> str | None:
    """The class that a label file holds, empty if it says nothing of it; None if it cannot be understood."""
    file.seek(member.offset)
    content = file.read(min(member.size, _MOST_LABEL_BYTES))
    try:
        if not member.name.endswith(".json"):
            return content.decode().strip()
        value = json.loads(content)
    except ValueError:
        problems.append(Broken(member.name, "holds no readable label"))
        return None
    if not isinstance(value, dict):
        return label_name(value) or ""
    return next((name for key in _LABEL_KEYS if (name := label_name(value.get(key))) is not None), "")


class ShardFile:
    """An archive open for reading; closed when nobody refers to it any more, so that no thread loses it in use."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at a place; fewer where the file ends. It has no position, so threads and forks may share it."""
        data = os.pread(self.descriptor, size, offset)
        while len(data) < size and (more := os.pread(self.descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def stream(self) -> BinaryIO:
        """The same file with a position of its own, for one reader."""
        return io.BufferedReader(_Positioned(self))

    def __del__(self) -> None:
        os.close(self.descriptor)


class _Positioned(io.RawIOBase):
    def __init__(self, file: ShardFile) -> None:
        self._file, self._place = file, 0
        self._end = os.fstat(file.descriptor).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
