"""Folders of images: class folders, one flat folder, a labels file, and folders split into train and val.

Listed with `os.scandir`: a data set library takes hours for the million files that this lists in seconds.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alitok.core.console import are, counted
from alitok.core.errors import AlitokError
from alitok.data.sources.images import (
    TRAIN,
    EncodedImages,
    Listing,
    Strings,
    is_image,
    known_endings,
    normal,
    printable,
    val_name,
)
from alitok.data.sources.labels_file import find_labels, read_labels


class _File(NamedTuple):
    key: str  # path below the root, with /
    label: str
    size: int  # bytes, -1 where the file is missing


@dataclass(eq=False, kw_only=True)
class FileImages(EncodedImages):
    """Images in files of their own below one root."""

    root: str
    keys: Strings

    def key(self, index: int) -> str:
        """The path below the root, with `/`."""
        return printable(self.keys[index])

    def encoded(self, index: int) -> bytes:
        """The file."""
        with open(os.path.join(self.root, self.keys[index]), "rb", buffering=0) as file:  # noqa: PTH118, PTH123 (lean)
            return file.read()


def open_folder(root: Path) -> FileImages:
    """List a folder of images, hidden ones ignored; AlitokError says why it cannot be used.

    It has one folder per class; or images with a file that labels them; or images only, one class; or a folder `train`
    and one of `val`, `valid`, `validation` and `test` of any of these forms.
    """
    if not root.is_dir():
        raise AlitokError(f"{root} is a file; give a folder of images.")
    parts, notes = _parts(root)
    listed = [_list(root / part, f"{part}/" if part else "", root.name, notes) for part in parts or [""]]
    return _collect(root, root.name or str(root), listed, notes)


def open_labels(labels: Path) -> FileImages:
    """The images that a labels file names, relative to its own folder; AlitokError where it cannot be used."""
    notes: list[str] = []
    files = _list_labelled(labels, "", optional=False, notes=notes)
    return _collect(labels.parent, labels.name, [files or []], notes)


def images_below(root: Path) -> list[str]:
    """Paths of all images below a folder, in order; AlitokError where a folder cannot be listed."""
    return sorted((key for key, _ in _walk(root)), key=_order)


def _collect(root: Path, name: str, listed: list[Iterable[_File]], notes: Iterable[str]) -> FileImages:
    """Listed files as images; those of a second listing are for validation."""
    listing, val = Listing(), array("b")

    def keys() -> Iterator[str]:
        for part, files in enumerate(listed):
            for file in files:
                listing.append(file.label, *file)
                val.append(part)
                yield file.key

    strings = Strings(keys())
    classes, rows = listing.finish()
    return FileImages(
        name=name,
        classes=classes,
        labels=rows,
        contents=listing.contents(),
        val=np.array(val, bool) if len(listed) > 1 else None,
        notes=tuple(notes),
        root=str(root),
        keys=strings,
    )


def _parts(root: Path) -> tuple[list[str] | None, list[str]]:
    """The folders of a given split, training first, or None without one; and notes on what is not used."""
    folders, _ = _children(root)
    val = val_name(folders)
    if TRAIN not in folders or find_labels(root) is not None:
        return None, []
    if val is None:  # `train` may be one of the classes, or the only split
        alone = folders == [TRAIN] and _has_classes(root / TRAIN)
        return ([TRAIN] if alone else None), []
    parts = [TRAIN, val]
    if _has_classes(root / TRAIN) and not _has_classes(root / val):  # as in competitions with unlabelled test images
        parts = [TRAIN]
    unused = ", ".join(name for name in folders if name not in parts)
    return parts, [f"Of {root}, only {' and '.join(parts)} are used; not used: {unused}."] if unused else []


def _has_classes(folder: Path) -> bool:
    return bool(_children(folder)[0]) or find_labels(folder) is not None


def _list(folder: Path, prefix: str, flat_class: str, notes: list[str]) -> Iterable[_File]:
    """The images below one folder; keys begin with `prefix`, and without labels `flat_class` is the only class."""
    folders, images = _children(folder)
    labels = find_labels(folder)
    if labels is not None:
        files = _list_labelled(labels, prefix, optional=bool(folders), notes=notes)
        if files is not None:
            return files
        notes.append(f"{labels} labels none of the images; the class folders beside it are used.")
    by_class = {name: _class_files(folder, prefix, name) for name in sorted(folders, key=_order)}
    if any(by_class.values()):
        empty = next((name for name, files in by_class.items() if not files), None)
        if empty is not None:
            raise AlitokError(
                f"Class folder {folder / empty} has no images; remove it or add some ({known_endings()})."
            )
        if images:
            count = len(images)
            notes.append(f"{counted(count, 'image')} beside the class folders of {folder} {are(count)} not used.")
        return [file for files in by_class.values() for file in files]
    if not images:
        raise AlitokError(f"{folder} has no images, nor has any folder in it; known endings: {known_endings()}.")
    return [_File(f"{prefix}{name}", flat_class, _size(folder / name)) for name in sorted(images, key=_order)]


def _list_labelled(labels: Path, prefix: str, optional: bool, notes: list[str]) -> list[_File] | None:
    """The files that a labels file names, missing ones included; None if it names none and is `optional`."""
    table, folder = read_labels(labels, optional), labels.parent
    files = [_File(f"{prefix}{name}", table[name], _size(folder / name)) for name in sorted(table, key=_order)]
    if all(file.size < 0 for file in files):
        if optional:
            return None
        raise AlitokError(
            f"None of the {len(files):,} files in {labels}, such as {next(iter(table))!r}, exists; paths in it are "
            "relative to its own folder."
        )
    unlabelled = [key for key, _ in _walk(folder) if key not in table]
    if unlabelled:
        count, example = len(unlabelled), min(unlabelled, key=_order)
        notes.append(f"{counted(count, 'image')} without a label in {labels} {are(count)} not used, such as {example}.")
    return files


def _children(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the images directly in a folder, without hidden ones."""
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


def _class_files(folder: Path, prefix: str, name: str) -> list[_File]:
    """All images of a class folder, at any depth."""
    found = ((key, _size(entry)) for key, entry in _walk(folder, name))
    return [_File(f"{prefix}{key}", name, size) for key, size in sorted(found, key=lambda item: _order(item[0]))]


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


def _size(path: Path | os.DirEntry[str]) -> int:
    try:
        found = path.stat()
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _unlisted(folder: Path, error: OSError) -> AlitokError:
    return AlitokError(f"{error.filename or folder} cannot be listed: {error.strerror}.")


def _order(name: str) -> tuple[str, str]:
    """Sorts by code points, so that neither locale nor file system decides the order."""
    return normal(name), name
