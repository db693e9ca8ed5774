"""Images in memory-mapped tables, as Hugging Face data sets hold them; and which columns hold images and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.core.errors import AlitokError
from alitok.data.sources.images import Broken, EncodedImages, Listing
from alitok.data.sources.labels_file import label_name

_IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
_LABEL_NAMES = ("label", "labels", "class", "cls", "category", "target")


@dataclass(frozen=True)
class Columns:
    """Which columns of a data set hold images and labels."""

    image: str
    label: str | None  # None where all images are one class
    names: tuple[str, ...] | None  # of classes by number, where the data set gives them

    def class_of(self, value: Any) -> str | None:
        """The class of a value of the label column, or None."""
        if self.names is None or not isinstance(value, int):
            return label_name(value)
        return self.names[value] if 0 <= value < len(self.names) else None  # -1 where labels are withheld

    def notes(self, name: str, classes: Sequence[str]) -> tuple[str, ...]:
        """What a user should know about the choice of columns of the data set `name`."""
        notes = []
        if self.label is None:
            notes.append(f"{name} has no clear label column, so its images are one class; else add ?label=COLUMN.")
        if self.names is not None and len(classes) < len(self.names):
            missing = len(self.names) - len(classes)
            notes.append(f"{missing:,} of the {len(self.names):,} classes of {name} have no images.")
        return tuple(notes)


def find_columns(features: Mapping[str, Any], options: Mapping[str, str], name: str) -> Columns:
    """The columns that the user named, else those of an unambiguous type, else those with a usual name.

    Raises:
        AlitokError: the choice is ambiguous.
    """
    kinds = {column: _kind(feature) for column, feature in features.items()}
    listed = ", ".join(f"{column} ({kind or type(features[column]).__name__})" for column, kind in kinds.items())
    for option in ("image", "label"):
        if option in options and options[option] not in features:
            raise AlitokError(f"{name} has no column {options[option]!r}; its columns are: {listed}.")

    def choose(option: str, sure: str, likely: tuple[str, ...], usual: tuple[str, ...]) -> str | None:
        if option in options:
            return options[option]
        found = [column for column, kind in kinds.items() if kind == sure]
        found = found or [column for column, kind in kinds.items() if kind in likely and column.lower() in usual]
        if len(found) > 1:
            found = [column for column in found if column.lower() in usual] or found
        if len(found) > 1:
            raise AlitokError(
                f"{name} has several columns that may be the {option}: {', '.join(found)}; add ?{option}=COLUMN. "
                f"All of its columns: {listed}."
            )
        return found[0] if found else None

    image = choose("image", "image", ("bytes", "text"), _IMAGE_NAMES)
    if image is None:
        raise AlitokError(f"{name} has no clear image column; add ?image=COLUMN. Its columns: {listed}.")
    label = choose("label", "class", ("number", "text"), _LABEL_NAMES)
    names = getattr(features[label], "names", None) if label is not None else None
    # an empty name could not be told from a missing one in an archive
    return Columns(image, label, tuple(name.strip() or f"class {row}" for row, name in enumerate(names or ())) or None)


def _kind(feature: Any) -> str:
    """What a column may be: image, bytes, class, number or text; empty for anything else."""
    kind = type(feature).__name__  # by name, as importing `datasets` takes seconds
    if kind == "ClassLabel":
        return "class"
    if kind == "Image" or (isinstance(feature, dict) and {"bytes", "path"} >= set(feature) >= {"bytes"}):
        return "image"
    dtype = str(getattr(feature, "dtype", ""))
    if dtype in ("binary", "large_binary"):
        return "bytes"
    if dtype in ("string", "large_string"):
        return "text"
    return "number" if dtype.startswith(("int", "uint")) else ""


def without_decoding(data: Any, column: str) -> Any:
    """A data set or stream whose images stay encoded: decoding a broken one would end the stream."""
    if type(data.features[column]).__name__ != "Image":
        return data
    import datasets

    return data.cast_column(column, datasets.Image(decode=False))


def encoded_image(value: Any) -> bytes:
    """An image from a row: bytes, a path or a dictionary of both; empty if none; FileNotFoundError if missing."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str):
        return value or b""
    import fsspec

    with fsspec.open(value, "rb") as file:
        return file.read()


@dataclass(eq=False, kw_only=True)
class TableImages(EncodedImages):
    """Images in tables."""

    column: str  # of the images
    splits: tuple[str, ...]  # names of the parts, for keys
    tables: tuple[Any, ...]  # the data set of each part
    part_of: np.ndarray  # (N,) int32
    row_of: np.ndarray  # (N,) int64, which row of it

    def key(self, index: int) -> str:
        """The split and the row."""
        return f"{self.splits[self.part_of[index]]}/{self.row_of[index]}"

    def encoded(self, index: int) -> bytes:
        """The image as the table holds it, or the file that the table names."""
        return encoded_image(self.tables[self.part_of[index]][int(self.row_of[index])][self.column])


def from_tables(name: str, parts: Mapping[str, Any], options: Mapping[str, str]) -> TableImages:
    """Map-style data sets by split, training first and then, where there is one, validation, as `EncodedImages`.

    Raises:
        AlitokError: the choice of columns is ambiguous, or there are no labelled images.
    """
    columns = find_columns(next(iter(parts.values())).features, options, name)
    listing, left_out = Listing(), list[Broken]()
    tables, part_of, row_of = [], [], []
    for number, (split, data) in enumerate(parts.items()):
        missing = [column for column in (columns.image, columns.label) if column and column not in data.features]
        if missing:
            raise AlitokError(f"Split {split} of {name} has no column {missing[0]!r}, which the first split has.")
        data = data if data.data.num_rows == len(data) else data.flatten_indices()  # whole columns are read
        tables.append(without_decoding(data, columns.image).select_columns([columns.image]))
        values = data.data.column(columns.label).to_pylist() if columns.label is not None else [name] * len(data)
        for row, (value, size) in enumerate(zip(values, _sizes(data.data.column(columns.image)), strict=True)):
            label = columns.class_of(value)
            if label is None:
                left_out.append(Broken(f"{split}/{row}", "has no label"))
                continue
            listing.append(label, split, row, label, size)
            part_of.append(number)
            row_of.append(row)
    classes, rows = listing.finish(columns.names)
    if not len(rows):
        raise AlitokError(f"{name} has no labelled images.")
    part = np.array(part_of, np.int32)
    return TableImages(
        name=name,
        classes=classes,
        labels=rows,
        contents=listing.contents(),
        column=columns.image,
        splits=tuple(parts),
        tables=tuple(tables),
        part_of=part,
        row_of=np.array(row_of, np.int64),
        val=part == 1 if len(parts) > 1 else None,
        left_out=tuple(left_out),
        notes=columns.notes(name, classes),
    )


def _sizes(column: Any) -> list[int]:
    """Bytes of each image of a column, -1 where it is in a file of its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes: list[int] = []
    for chunk in column.chunks:
        encoded = chunk
        if isinstance(chunk, pa.StructArray):
            encoded = chunk.field("bytes") if chunk.type.get_field_index("bytes") >= 0 else None
        elif pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
            encoded = None
        known = encoded is not None
        sizes += pc.fill_null(pc.binary_length(encoded), -1).to_pylist() if known else [-1] * len(chunk)
    return sizes
