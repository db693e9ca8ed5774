"""Where the images of a tar archive are: headers and label files are read, images are skipped.

Members that share their path up to the first dot of the last part are one sample: `a/0001.jpg` and `a/0001.cls`. Its
class is in `.cls` or `.cls.txt`, or in `.json` under `label`, `class` or `cls`. Of the images of a sample, the first
with nothing before its ending is used (`0001.jpg`, not `0001.mask.png`); without one, all are. Others are counted.
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
_MOST_LABEL_BYTES = 1 << 20
_KNOWN_STARTS = {
    b"\x1f\x8b": "compressed",
    b"BZh": "compressed",
    b"\xfd7zXZ": "compressed",
    b"(\xb5/\xfd": "compressed",
    b"PK": "a zip archive",
}


class ArchiveFile:
    """An archive open for reading; closed when the last reference goes, so that no thread loses it in use."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at an offset, fewer where the file ends; safe to share between threads and forked processes."""
        data = os.pread(self.descriptor, size, offset)
        while len(data) < size and (more := os.pread(self.descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass
class ArchiveIndex:
    """Where the images of one archive are."""

    keys: Strings  # (n,) names of members
    labels: Strings  # (n,) the class that the archive itself gives; empty where it gives none
    offsets: np.ndarray  # (n,) int64 of the first byte
    sizes: np.ndarray  # (n,) int64 in bytes
    problems: tuple[Broken, ...] = ()  # by name of member, or an empty name for the archive itself
    surplus: int = 0  # images that are not used because another one of their sample is
    example: str = ""  # the name of the first of these

    def __len__(self) -> int:
        return len(self.keys)

    def to_bytes(self) -> bytes:
        """For `from_bytes`."""
        arrays = {"offsets": self.offsets, "sizes": self.sizes}
        for name, strings in (("keys", self.keys), ("labels", self.labels)):
            arrays[name], arrays[f"{name}_ends"] = np.frombuffer(strings.buffer, np.uint8), strings.ends
        rest = {"problems": self.problems, "surplus": self.surplus, "example": self.example}
        arrays["rest"] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> ArchiveIndex:
        """Inverse of `to_bytes`; other data raises."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            keys, labels = (Strings.from_arrays(arrays[name], arrays[f"{name}_ends"]) for name in ("keys", "labels"))
            rest = json.loads(arrays["rest"].tobytes())
            problems = tuple(Broken(*row) for row in rest["problems"])
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

    def add(self, member: _Member, ending: str) -> None:
        if is_image(posixpath.basename(member.name)):
            self.images.append(member)
            if self.plain is None and f".{ending}" in SUFFIXES:
                self.plain = member
        elif ending in _CLASS_ENDINGS or (ending == "json" and self.label is None):
            self.label = member


def index_archive(file: BinaryIO, name: str) -> ArchiveIndex:
    """Read the headers and the label files of an archive; AlitokError where it is not an uncompressed tar archive."""
    samples: dict[str, _Sample] = {}
    problems, rows, labels, surplus = [], [], [], []
    for member in _members(file, name):
        if isinstance(member, Broken):
            problems.append(member)
            continue
        folder, base = posixpath.split(member.name)
        stem, _, ending = base.partition(".")
        samples.setdefault(f"{folder}/{stem}", _Sample()).add(member, ending.lower())
    for sample in samples.values():
        images = [sample.plain] if sample.plain else sample.images
        surplus += [image for image in sample.images if image is not sample.plain] if sample.plain else []
        label = _read_label(file, sample.label, problems) if sample.label and images else ""
        if label is not None:
            rows += images
            labels += [label] * len(images)
    return ArchiveIndex(
        Strings(row.name for row in rows),
        Strings(labels),
        np.array([row.offset for row in rows], np.int64),
        np.array([row.size for row in rows], np.int64),
        tuple(problems),
        len(surplus),
        surplus[0].name if surplus else "",
    )


def _members(file: BinaryIO, archive_name: str) -> Iterator[_Member | Broken]:
    """The files of an archive that are not hidden, and what is wrong with the archive."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (closing it would change nothing)
    except tarfile.ReadError:
        file.seek(0)
        first = file.read(6)
        known = (what for start, what in _KNOWN_STARTS.items() if first.startswith(start))
        what = next(known, "not a tar archive, or damaged") if first else "empty"
        raise AlitokError(f"{archive_name} is {what}; give an uncompressed tar archive, or unpack it.") from None
    while True:
        try:
            member = archive.next()
        except (tarfile.TarError, OSError, ValueError):
            yield Broken("", "is damaged: what follows its last readable header is not used")
            return
        if member is None:
            break
        archive.members = []  # type: ignore[attr-defined]  # it would collect all
        name = posixpath.normpath(member.name)
        if member.offset_data + member.size > end:
            yield Broken(name, "is cut short: its archive ends too early")
            return
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


def _read_label(file: BinaryIO, member: _Member, problems: list[Broken]) -> str | None:
    """The class in a label file, empty if it gives none; None if it cannot be parsed."""
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
