"""Folders of images: class folders, one flat folder, and folders that are divided into train and val.

Enters: a path. Leaves: `FileImages`, whose files are listed when the folder is opened and read when they are wanted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alitok.core.console import are, counted
from alitok.core.errors import AlitokError
from alitok.data.sources.images import (
    TRAIN,
    Broken,
    Contents,
    Labels,
    Strings,
    is_image,
    known_endings,
    normal,
    printable,
    val_names,
)
from alitok.data.sources.labels_file import find_labels, read_labels


class File(NamedTuple):
    """A listed image: its path below the root with `/`, its class, its size in bytes or -1 where it is missing."""

    key: str
    label: str
    size: int


@dataclass
class Listing:
    """The images of one folder in order, and what was seen besides."""

    files: Iterable[File]
    notes: list[str] = field(default_factory=list)


@dataclass(eq=False)
class FileImages:
    """Images in files of their own below one root; see `EncodedImages` for the rest."""

    root: str
    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    keys: Strings
    contents: str
    val: np.ndarray | None = None
    groups: np.ndarray | None = None
    left_out: tuple[Broken, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """The path below the root, with `/`."""
        return printable(self.keys[index])

    def encoded(self, index: int) -> bytes:
        """The file."""
        with open(os.path.join(self.root, self.keys[index]), "rb", buffering=0) as file:  # noqa: PTH118, PTH123 (lean)
            return file.read()


def open_folder(root: Path) -> FileImages:
    """List a folder of images.

    Args:
        root: one folder per class; or images with a file that labels them; or images only, one class; or a folder
            `train` and one of `val`, `valid`, `validation` and `test` of any of these forms. Hidden files and folders
            are ignored.

    Raises:
        AlitokError: the folder cannot be used; the message says why.
    """
    if not root.is_dir():
        raise AlitokError(f"{root} is a file; give a folder of images.")
    parts, notes = _parts(root)
    if parts is None:
        listing = _listing(root, "", root.name)
        images = collect(root, listing.files)
    else:
        listings = [_listing(root / part, f"{part}/", root.name) for part in parts]
        images = collect(root, *(listing.files for listing in listings))
        listing = Listing((), [note for each in listings for note in each.notes])
    return replace(images, notes=(*notes, *listing.notes))


def open_labels(labels: Path) -> FileImages:
    """The images that a labels file names, relative to its own folder.

    Raises:
        AlitokError: the file cannot be used; the message says why.
    """
    listing = _labelled(labels, "", optional=False)
    assert listing is not None
    return replace(collect(labels.parent, listing.files), name=labels.name, notes=tuple(listing.notes))


def collect(root: Path, train: Iterable[File], val: Iterable[File] | None = None) -> FileImages:
    """Listed files as `EncodedImages`; with `val`, the split is given."""
    labels, contents = Labels(), Contents()
    counts = [0, 0]

    def keys() -> Iterator[str]:
        for part, files in enumerate((train, val or ())):
            for file in files:
                labels.append(file.label)
                contents.append(file.key, file.label, file.size)
                counts[part] += 1
                yield file.key

    strings = Strings(keys())
    classes, rows = labels.finish()
    held = None if val is None else np.arange(len(rows)) >= counts[0]
    return FileImages(str(root), root.name or str(root), classes, rows, strings, contents.finish(), held)


def images_below(root: Path) -> list[str]:
    """Paths of all images below a folder, in order; hidden files and folders are left out.

    Raises:
        AlitokError: a folder cannot be listed.
    """
    return sorted((key for key, _ in _walk(root)), key=_order)


def _parts(root: Path) -> tuple[list[str] | None, list[str]]:
    """The folders of a given split, training first, or None where there is none; and what is to be said of it."""
    folders, _ = _children(root)
    val = val_names(folders)
    if TRAIN not in folders or find_labels(root) is not None:
        return None, []
    if val is None:  # `train` may be a class among others, or the only part that there is
        alone = folders == [TRAIN] and _divided(root / TRAIN)
        return ([TRAIN] if alone else None), []
    parts, notes = [TRAIN, val], []
    if _divided(root / TRAIN) and not _divided(root / val):  # as in competitions, whose test images are unlabelled
        parts = [TRAIN]
    unused = [name for name in folders if name not in parts]
    if unused:
        notes.append(f"Of {root}, only {' and '.join(parts)} are used; not used: {', '.join(unused)}.")
    return parts, notes


def _divided(folder: Path) -> bool:
    """Whether the images of a folder come with classes."""
    return bool(_children(folder)[0]) or find_labels(folder) is not None


def _listing(folder: Path, prefix: str, flat_class: str) -> Listing:
    """The images below one folder; keys begin with `prefix`, and without labels `flat_class` is the only class."""
    folders, images = _children(folder)
    labels = find_labels(folder)
    notes = []
    if labels is not None:
        listing = _labelled(labels, prefix, optional=bool(folders))
        if listing is not None:
            return listing
        notes.append(f"{labels} labels none of the images; the class folders beside it are used.")
    by_class = [(name, _below(folder, prefix, name)) for name in sorted(folders, key=_order)]
    if any(files for _, files in by_class):
        for name, files in by_class:
            if not files:
                raise AlitokError(
                    f"Class folder {folder / name} has no images; remove it or add some ({known_endings()})."
                )
        if images:
            count = len(images)
            notes.append(f"{counted(count, 'image')} beside the class folders of {folder} {are(count)} not used.")
        return Listing((file for _, files in by_class for file in files), notes)
    if not images:
        raise AlitokError(f"{folder} has no images, nor has any folder in it; known endings: {known_endings()}.")
    names = sorted(images, key=_order)
    return Listing([File(f"{prefix}{name}", flat_class, _size(folder / name)) for name in names], notes)


def _labelled(labels: Path, prefix: str, optional: bool) -> Listing | None:
    """The files that a labels file names, missing ones included; None if it names none and is `optional`."""
    table, folder = read_labels(labels, optional), labels.parent
    files = [File(f"{prefix}{name}", table[name], _size(folder / name)) for name in sorted(table, key=_order)]
    if all(file.size < 0 for file in files):
        if optional:
            return None
        raise AlitokError(
            f"{labels} names {len(files):,} files, such as {next(iter(table))!r}, and none of them is there; "
            "paths in it are relative to its own folder."
        )
    surplus = [key for key, _ in _walk(folder) if key not in table]
    if not surplus:
        return Listing(files)
    example = min(surplus, key=_order)
    count = len(surplus)
    note = f"{counted(count, 'image')} without a label in {labels} {are(count)} not used, such as {example}."
    return Listing(files, [note])


def _children(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the images directly in a folder, hidden ones left out."""
    folders, images = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif is_image(entry.name):
                        images.append(entry.name)
    except OSError as error:
        raise _unlisted(folder, error) from None
    return folders, images


def _below(folder: Path, prefix: str, name: str) -> list[File]:
    """All images of a class folder, however deep."""
    found = ((key, _entry_size(entry)) for key, entry in _walk(folder, name))
    return [File(f"{prefix}{key}", name, size) for key, size in sorted(found, key=lambda pair: _order(pair[0]))]


def _walk(root: Path, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All images below a folder with their paths from the root, in any order; links to folders are not followed."""
    waiting = [below]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(root / here) as entries:
                for entry in entries:
                    path = f"{here}/{entry.name}" if here else entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    elif is_image(entry.name):
                        yield path, entry
        except OSError as error:
            raise _unlisted(root / here, error) from None


def _entry_size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1


def _unlisted(folder: Path, error: OSError) -> AlitokError:
    return AlitokError(f"{error.filename or folder} cannot be listed: {error.strerror}.")


def _order(name: str) -> tuple[str, str]:
    """Sorts by code points, so that neither locale nor file system decides the order."""
    return normal(name), name


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1
