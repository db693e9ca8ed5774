"""Tar archives of images, local or remote, each image read at random from its place in its archive.

The class of an image is the one its archive gives, see `archive_index`. Where no archive gives any, it is the first
folder below the one that all images are in, and without such folders all images are one class.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core.console import Reporter, are, counted
from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes
from alitok.data.decode import in_threads
from alitok.data.sources.archive_index import ArchiveFile, ArchiveIndex, index_archive
from alitok.data.sources.cache import Cache
from alitok.data.sources.images import TRAIN, Broken, EncodedImages, Listing, Strings, printable, val_name

_MOST_OPEN, _MOST_OPEN_FETCHED = 256, 32  # archives a process has open; fetched ones cannot be evicted while they are
_FETCHED_AT_ONCE = 4
_MOST_LOGGED = 100  # lines of progress while listing


@dataclass(frozen=True)
class Shard:
    """One archive."""

    name: str  # unique among the archives of a source
    place: Path | str  # a path, or the URL of an archive that never changes
    cache: Cache  # where it is fetched to

    def open(self) -> ArchiveFile:
        """Open it, fetching it first if necessary; OSError where it cannot be read, AlitokError where not fetched."""
        if isinstance(self.place, str):
            return self.cache.open(self.place)
        return ArchiveFile(os.open(self.place, os.O_RDONLY))

    def index(self) -> Path:
        """Where its index is saved: another file when its content changes; raises OSError where it cannot be read."""
        if isinstance(self.place, str):
            return self.cache.index(self.place)
        found = self.place.stat()
        return self.cache.index(self.place, found.st_size, found.st_mtime_ns)


class OpenShards:
    """The most recently used open archives, at most `most`; pickling and forking start empty."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._process, self._lock = os.getpid(), threading.Lock()
        self._files: dict[int, ArchiveFile] = {}

    def get(self, number: int, shard: Shard) -> ArchiveFile:
        """The file of a shard, opened if it is not open yet."""
        if os.getpid() != self._process:
            OpenShards.__init__(self, self._most)
        with self._lock:
            file = self._files.pop(number, None)
            if file is not None:
                self._files[number] = file  # now the most recent
                return file
        file = shard.open()  # outside the lock, as it may take minutes
        with self._lock:
            self._files[number] = file
            while len(self._files) > self._most:
                del self._files[next(iter(self._files))]
        return file

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenShards, (self._most,)


@dataclass(eq=False, kw_only=True)
class ArchiveImages(EncodedImages):
    """Images in archives."""

    shards: tuple[Shard, ...]
    members: Strings  # (N,) names
    shard_of: np.ndarray  # (N,) int32 numbers of archives
    offsets: np.ndarray  # (N,) int64
    sizes: np.ndarray  # (N,) int64
    files: OpenShards

    def key(self, index: int) -> str:
        """The archive and the member in it."""
        return printable(f"{self.shards[self.shard_of[index]].name}/{self.members[index]}")

    def encoded(self, index: int) -> bytes:
        """The member."""
        number = int(self.shard_of[index])
        size = int(self.sizes[index])
        data = self.files.get(number, self.shards[number]).read(int(self.offsets[index]), size)
        if len(data) < size:
            raise EOFError("its archive ends too early")
        return data


def open_archives(
    name: str,
    train: Sequence[Shard],
    val: Sequence[Shard] | None = None,
    *,
    notes: tuple[str, ...] = (),
    only_class: str | None = None,
    classes: Sequence[str] | None = None,
    log: Reporter | None = None,
) -> ArchiveImages:
    """List the images of archives.

    Args:
        val: archives of validation images, where the split is given.
        only_class: the class of images without labels and folders; `name` unless given.
        classes: their order, where it is given.

    Raises:
        AlitokError: an archive cannot be read, or there are no images.
    """
    shards = (*train, *(val or ()))
    fetched = any(isinstance(shard.place, str) for shard in shards)
    indexes = list(_indexes(shards, _FETCHED_AT_ONCE if fetched else None, log))
    shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), [len(index) for index in indexes])
    held = None if val is None else shard_of >= len(train)
    if any(index.labels.buffer for index in indexes):  # archives that give classes themselves
        names: Iterator[str | None] = (index.labels[row] or None for index in indexes for row in range(len(index)))
        missing = "has no label"
    else:
        names, split_by_folder = _folder_classes(indexes, only_class or name)
        held = split_by_folder if held is None else held
        missing = "is not in a class folder, as others are"
    listing, used = Listing(), array("b")
    left_out = [
        Broken(printable(f"{shard.name}/{key}" if key else shard.name), reason)
        for shard, index in zip(shards, indexes, strict=True)
        for key, reason in index.problems
    ]

    def members() -> Iterator[str]:
        for shard, index in zip(shards, indexes, strict=True):
            for row, size in enumerate(index.sizes.tolist()):
                label, key = next(names), index.keys[row]
                used.append(label is not None)
                if label is None:
                    left_out.append(Broken(printable(f"{shard.name}/{key}"), missing))
                    continue
                listing.append(label, shard.name, key, label, size)
                yield key

    keys = Strings(members())
    if not len(keys):
        raise AlitokError(f"{name} has no images with a class.")
    class_names, rows = listing.finish(classes)
    mask = np.array(used, bool)
    count = sum(index.surplus for index in indexes)
    if count:
        found = zip(shards, indexes, strict=True)
        example = next(f"{shard.name}/{index.example}" for shard, index in found if index.surplus)
        note = (
            f"{counted(count, 'image')} in archives {are(count)} not used, such as {printable(example)}: another one "
            "has the same name up to the first dot, and files of one name are one sample."
        )
        notes = (*notes, note)
    return ArchiveImages(
        name=name,
        classes=class_names,
        labels=rows,
        contents=listing.contents(),
        shards=shards,
        members=keys,
        shard_of=shard_of[mask],
        offsets=np.concatenate([index.offsets for index in indexes])[mask],
        sizes=np.concatenate([index.sizes for index in indexes])[mask],
        val=None if held is None else held[mask],
        groups=shard_of[mask] if fetched else None,
        left_out=tuple(left_out),
        notes=notes,
        files=OpenShards(_MOST_OPEN_FETCHED if fetched else _MOST_OPEN),
    )


def _indexes(shards: Sequence[Shard], threads: int | None, log: Reporter | None) -> Iterator[ArchiveIndex]:
    """The indexes of archives, in order; logs progress where they were not in the cache."""
    count, last = len(shards), 0
    found = in_threads(lambda shard: _index(shard, log), shards, threads)
    for done, (index, is_new) in enumerate(found, start=1):
        if log is not None and is_new and count > 1 and (done == count or (done - last) * _MOST_LOGGED >= count):
            log(f"{done:,} of {count:,} archives listed")
            last = done
        yield index


def _index(shard: Shard, log: Reporter | None) -> tuple[ArchiveIndex, bool]:
    """The index of an archive, from the cache if it is there, and whether it had to be made."""
    try:
        path = shard.index()
        try:
            return ArchiveIndex.from_bytes(path.read_bytes()), False
        except Exception:  # none yet, or a damaged one, on which numpy and zipfile raise nearly anything
            if log is not None and isinstance(shard.place, str) and not shard.cache.has(shard.place):
                log(f"Fetching {shard.place}")
            archive = shard.open()
            with os.fdopen(archive.descriptor, "rb", closefd=False) as file:
                index = index_archive(file, shard.name)
    except OSError as error:
        raise AlitokError(f"{shard.name} cannot be read: {error.strerror or error}.") from None
    with suppress(OSError):  # a cache that cannot be written
        write_bytes(path, index.to_bytes())
    return index, True


def _folder_classes(indexes: Sequence[ArchiveIndex], only_class: str) -> tuple[Iterator[str | None], np.ndarray | None]:
    """The class of each image by its folder, None where only others have one; and the split, if folders give one."""

    def paths() -> Iterator[list[str]]:
        return (index.keys[row].split("/")[:-1] for index in indexes for row in range(len(index)))

    common: list[str] | None = None
    for path in paths():
        same = takewhile(lambda both: both[0] == both[1], zip(path if common is None else common, path, strict=False))
        common = [part for part, _ in same]
    depth = len(common or ())
    firsts = Counter(path[depth] if len(path) > depth else None for path in paths())
    val = val_name(first for first in firsts if first)
    if firsts.keys() == {TRAIN, val}:
        held = np.array([path[depth] == val for path in paths()], bool)
        if all(len(path) == depth + 1 for path in paths()):
            return (only_class for _ in paths()), held
        return (path[depth + 1] if len(path) > depth + 1 else None for path in paths()), held
    if firsts.keys() == {None}:
        only = common[-1] if common else only_class
        return (only for _ in paths()), None
    return (path[depth] if len(path) > depth else None for path in paths()), None
