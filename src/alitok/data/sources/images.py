"""Encoded, labelled images: the interface of every opened source, and what listings are built from."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
TRAIN, VAL = "train", ("val", "valid", "validation", "test")  # names of given splits, the preferred one first

_INTEGER = re.compile(r"-?\d+")


class Broken(NamedTuple):
    """An image that cannot be used, and why, as in "cannot be decoded (image file is truncated)"."""

    key: str
    reason: str


@dataclass(eq=False, kw_only=True)
class EncodedImages(ABC):
    """A fixed number of labelled, encoded images in a fixed order. Picklable, because loader workers may be spawned."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64, indices into `classes`
    contents: str  # a hash that changes when images are added, removed, renamed, relabelled or of another size
    val: np.ndarray | None = None  # (N,) bool where the data brings its own split, true for validation images
    groups: np.ndarray | None = None  # (N,) int32, equal for images that lie together, if reading far apart is slow
    left_out: tuple[Broken, ...] = ()  # what listing met and could not use
    notes: tuple[str, ...] = ()  # for the user, on what was found and is not used

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def key(self, index: int) -> str:
        """The stable, unique name of an image: its path below the root, shard and member, or split and row."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image file; OSError where it cannot be read, AlitokError where no image can be, as without a network."""


class Strings:
    """Many short strings in one buffer: a list of a million strings would take ten times the memory."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        buffer, ends = bytearray(), array("q", [0])
        for text in texts:
            buffer += text.encode("utf-8", "surrogateescape")  # names of files may hold any bytes
            ends.append(len(buffer))
        self.buffer, self.ends = bytes(buffer), np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.buffer[self.ends[index] : self.ends[index + 1]].decode("utf-8", "surrogateescape")

    @classmethod
    def from_arrays(cls, buffer: np.ndarray, ends: np.ndarray) -> Strings:
        """From the buffer (bytes,) uint8 and where each string ends (N + 1,) int64."""
        strings = cls()
        strings.buffer, strings.ends = buffer.tobytes(), ends
        return strings


class Listing:
    """Collects classes and the hash of the contents image by image; numbers the classes once all are known."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._rows, self._digest = array("q"), hashlib.sha256()

    def append(self, label: str, *facts: object) -> None:
        """The class of the next image, and what identifies it."""
        self._digest.update("\0".join(map(str, facts)).encode("utf-8", "surrogateescape") + b"\n")
        name = normal(printable(label))
        self._rows.append(self._ids.setdefault(name, len(self._ids)))

    def contents(self) -> str:
        """Sixteen hexadecimal digits."""
        return self._digest.hexdigest()[:16]

    def finish(self, classes: Iterable[str] | None = None) -> tuple[tuple[str, ...], np.ndarray]:
        """The classes that occur, those of `classes` first, the others in `class_order`; and the labels (N,) int64."""
        given = [name for name in dict.fromkeys(map(normal, classes or ())) if name in self._ids]
        order = given + class_order(self._ids.keys() - set(given))
        number = {name: row for row, name in enumerate(order)}
        table = np.array([number[name] for name in self._ids], np.int64)
        rows = np.frombuffer(self._rows, np.int64)
        return tuple(order), table[rows] if len(rows) else rows.copy()


def normal(name: str) -> str:
    """One spelling of accented letters: file systems differ in which one they return."""
    return unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """A name that any terminal and file takes: bytes of a file's name that are not text are escaped."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return name


def class_order(names: Iterable[str]) -> list[str]:
    """Distinct names: as numbers if all are integers, else by code points, independent of locale and file system."""
    distinct = {normal(name) for name in names}
    if all(_INTEGER.fullmatch(name) for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def is_image(name: str) -> bool:
    """Whether a file of this name, without folders, is an image and not hidden."""
    dot = name.rfind(".")
    return dot > 0 and name[0] != "." and name[dot:].lower() in SUFFIXES


def known_endings() -> str:
    """For messages."""
    return " ".join(sorted(suffix[1:] for suffix in SUFFIXES))


def val_name(names: Iterable[str]) -> str | None:
    """Which of the folders, files or splits of a data set is its validation set; None without one."""
    present = set(names)
    return next((name for name in VAL if name in present), None)
