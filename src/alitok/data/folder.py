"""A folder of class folders: PATH/<class>/**/picture.

Pictures of any size, mode and common format enter; pictures (3, size, size) uint8 leave. Every file's header is
read when the folder is opened, so that what cannot be used is named before any training begins.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.crops import CropRecipe, centre_crop, five_crops, random_crop, stack_views, to_array, to_rgb
from alitok.data.split import heldout_mask

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_HELD_OUT = 0.1
_NAMED = 10  # broken files that one message names


@dataclass(eq=False)
class FolderSource:
    """Pictures that are decoded from their files each time they are read."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64
    size: int
    files: list[Path]
    flip: bool = True

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """(3, size, size) uint8: the centre crop, or with `rng` a random crop at 1.1 x, mirrored half of the time.

        Raises:
            AlitokError: the file is gone, damaged or truncated.
        """
        picture = self._decode(index)
        if rng is None:
            return to_array(centre_crop(picture, self.size))
        crop = to_array(random_crop(picture, self.size, rng))
        mirrored = self.flip and rng.random() < 0.5
        return np.ascontiguousarray(crop[:, :, ::-1]) if mirrored else crop

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """(C, 3, size, size) uint8: the centre crop, or with `ten` the corners and the centre at 1.1 x.

        Raises:
            AlitokError: the file is gone, damaged or truncated.
        """
        picture = self._decode(index)
        crops = five_crops(picture, self.size) if recipe == "ten" else [centre_crop(picture, self.size)]
        return stack_views([to_array(crop) for crop in crops], self.flip and recipe != "centre")

    def _decode(self, index: int) -> Image.Image:
        with _opened(self.files[index]) as image:
            return to_rgb(image)

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> None:
        """Decode every picture once.

        Args:
            progress: called with the number of pictures done after each picture.
            part: number of this process and of all; each decodes its share.

        Raises:
            AlitokError: some cannot be decoded; the message names them.
        """
        problems = []
        for done, file in list(enumerate(self.files, start=1))[part[0] :: part[1]]:
            try:
                with _opened(file) as image:
                    to_rgb(image)
            except AlitokError as error:
                problems.append(str(error))
            if progress is not None:
                progress(done)
        _raise_problems(problems)


def open_folder(root: Path, size: int, seed: int) -> tuple[FolderSource, FolderSource]:
    """List the pictures of all classes and hold out about a tenth of each class, at least one picture.

    Args:
        root: holds one folder per class; files beside these folders and hidden ones are ignored.
        size: pixels a side of the pictures that leave.
        seed: decides which pictures are held out.

    Returns:
        The sources for training and held-out pictures.

    Raises:
        AlitokError: the folder or a picture cannot be used; the message names it.
    """
    by_class = _pictures_by_class(root)
    files = [file for _, pictures in by_class for file in pictures]
    _check_headers(files, size)
    labels = np.repeat(np.arange(len(by_class), dtype=np.int64), [len(pictures) for _, pictures in by_class])
    held = heldout_mask(labels, _HELD_OUT, seed)
    name, classes = root.resolve().name, tuple(_normal(folder.name) for folder, _ in by_class)

    def source(split: str, mask: np.ndarray) -> FolderSource:
        return FolderSource(f"{name} {split}", classes, labels[mask], size, [files[i] for i in np.flatnonzero(mask)])

    return source("train", ~held), source("held-out", held)


def _pictures_by_class(root: Path) -> list[tuple[Path, list[Path]]]:
    """Class folders sorted by name, each with its sorted pictures, of which there are at least two."""
    if not root.exists():
        raise AlitokError(f"{root} does not exist; check the path.")
    if not root.is_dir():
        raise AlitokError(f"{root} is a file; give a folder that holds one folder of pictures per class.")
    try:
        folders = sorted((entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry.name)), key=_order)
        by_class = [(folder, _pictures_below(folder)) for folder in folders]
    except OSError as error:
        raise AlitokError(f"{error.filename or root} cannot be listed: {error.strerror}.") from None
    if not folders:
        raise AlitokError(f"{root} has no class folders; put the pictures into one folder per class inside it.")
    if not any(pictures for _, pictures in by_class):
        raise AlitokError(f"{root} has no pictures in its class folders; known endings: {_known()}.")
    for folder, pictures in by_class:
        if not pictures:
            raise AlitokError(f"Class folder {folder} has no pictures; remove it or add some ({_known()}).")
    if len(folders) == 1:
        raise AlitokError(f"{root} has only one class, {folders[0].name}; at least two class folders are needed.")
    for folder, pictures in by_class:
        if len(pictures) == 1:
            raise AlitokError(
                f"Class folder {folder} has one picture only; each class needs two, one of them to be held out."
            )
    return by_class


def _pictures_below(folder: Path) -> list[Path]:
    found = []
    for parent, subfolders, names in os.walk(folder, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not _hidden(name)]
        found += [Path(parent, name) for name in names if not _hidden(name) and Path(name).suffix.lower() in SUFFIXES]
    return sorted(found, key=_order)


def _raise(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _known() -> str:
    return " ".join(sorted(suffix[1:] for suffix in SUFFIXES))


def _normal(name: str) -> str:
    """One spelling of accented letters: file systems differ in which one they return."""
    return unicodedata.normalize("NFC", name)


def _order(path: Path) -> tuple[str, str]:
    """Sorts by code points, so that neither locale nor file system decides the order."""
    return _normal(path.as_posix()), path.as_posix()


def _check_headers(files: list[Path], size: int) -> None:
    least = max(8, size // 4)
    problems = []
    for file in files:
        try:
            with _opened(file) as image:
                width, height = image.size
        except AlitokError as error:
            problems.append(str(error))
            continue
        if min(width, height) < least:
            problems.append(
                f"{file} is {width} x {height} pixels; for images of {size} pixels it needs at least {least} a side: "
                "replace or remove it."
            )
    _raise_problems(problems)


def _raise_problems(problems: list[str]) -> None:
    if len(problems) == 1:
        raise AlitokError(problems[0])
    if problems:
        more = f"\n... and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise AlitokError("\n".join([f"{len(problems)} pictures cannot be used:", *problems[:_NAMED]]) + more)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open a picture; whatever goes wrong inside the block becomes an AlitokError that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what is wrong enough raises
        try:
            with Image.open(file) as image:
                yield image
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise AlitokError(f"{file} has more than {limit:,} pixels; shrink or remove it.") from None
        except Image.UnidentifiedImageError:
            raise AlitokError(f"{file} is not a picture that Pillow can read; replace or remove it.") from None
        except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
            reason = str(error) or type(error).__name__
            raise AlitokError(f"{file} cannot be decoded ({reason}); replace or remove it.") from None
