"""Images in tables, as Hugging Face data sets hold them.

Enters: data sets of the package `datasets`, and options that name columns. Leaves: `TableImages`, read from
memory-mapped tables; and which columns hold images and labels, for streams too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core.errors import AlitokError
from alitok.data.sources.images import Broken, Contents, Labels
from alitok.data.sources.labels_file import label_name

_IMAGE_NAMES = ("image", "img", "image", "photo", "jpg", "jpeg", "png", "webp")
_LABEL_NAMES = ("label", "labels", "class", "cls", "category", "target")


@dataclass(frozen=True)
class Columns:
    """Where images and classes stand in a data set.

    Attributes:
        image: the column of images.
        label: the column of labels; None where all images are of one class.
        names: class names by number, where the data set gives them.
    """

    image: str
    label: str | None
    names: tuple[str, ...] | None

    def class_of(self, value: Any) -> str | None:
        """The class that a value of the label column stands for; None if it stands for none."""
        if self.names is None or not isinstance(value, int):
            return label_name(value)
        return self.names[value] if 0 <= value < len(self.names) else None  # -1 where labels are withheld


def find_columns(features: Mapping[str, Any], options: Mapping[str, str], name: str) -> Columns:
    """The columns that the user named, else those whose kind leaves no doubt, else those with a usual name.

    Args:
        features: kind by column, as `datasets` has it.
        options: of the source.
        name: of the data set, for messages.

    Raises:
        AlitokError: it is not clear which columns are meant.
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
        raise AlitokError(f"{name} has no column that is plainly of images; add ?image=COLUMN. Its columns: {listed}.")
    label = choose("label", "class", ("number", "text"), _LABEL_NAMES)
    names = getattr(features[label], "names", None) if label is not None else None
    # a name without letters could not be told from none in an archive
    return Columns(image, label, tuple(name.strip() or f"class {row}" for row, name in enumerate(names or ())) or None)


def kind_of(feature: Any) -> str:
    """The name of a column's kind in `datasets`, such as Image; told by name, as importing it takes a second."""
    return type(feature).__name__


def _kind(feature: Any) -> str:
    """What a column may be: image, bytes, class, number or text; empty for anything else."""
    kind = kind_of(feature)
    if kind in ("Image", "ClassLabel"):
        return {"Image": "image", "ClassLabel": "class"}[kind]
    if isinstance(feature, dict) and {"bytes", "path"} >= set(feature) >= {"bytes"}:
        return "image"
    dtype = str(getattr(feature, "dtype", ""))
    if dtype in ("binary", "large_binary"):
        return "bytes"
    if dtype in ("string", "large_string"):
        return "text"
    return "number" if dtype.startswith(("int", "uint")) else ""


class _Rows:
    """One column of encoded images, read row by row; the views of the table are made anew in each process."""

    def __init__(self, table: Any, column: str) -> None:
        self._table, self._column = table, column
        self._chunks: list[tuple[Any, Any]] | None = None
        self._starts = np.zeros(1, np.int64)

    def __getstate__(self) -> tuple[Any, str]:
        return self._table, self._column

    def __setstate__(self, state: tuple[Any, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def chunks(self) -> list[tuple[Any, Any]]:
        """Bytes and paths of each piece of the table, None for what the column does not have."""
        if self._chunks is None:
            import pyarrow as pa

            column = self._table.data.column(self._column)
            chunks: list[tuple[Any, Any]] = []
            for chunk in column.chunks:
                if isinstance(chunk, pa.StructArray):
                    fields = {field.name for field in chunk.type}
                    encoded, paths = (chunk.field(name) if name in fields else None for name in ("bytes", "path"))
                    chunks.append((encoded, paths))
                elif pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
                    chunks.append((None, chunk))
                else:
                    chunks.append((chunk, None))
            self._starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])[:-1]
            self._chunks = chunks
        return self._chunks

    def read(self, row: int) -> bytes:
        """One image; empty where the table holds none."""
        chunks = self.chunks()
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        encoded, paths = chunks[number]
        place = row - int(self._starts[number])
        value = encoded[place].as_py() if encoded is not None else None
        if value is not None:
            return value
        path = paths[place].as_py() if paths is not None else None
        return Path(path).read_bytes() if path else b""

    def sizes(self) -> np.ndarray:
        """Bytes of each image (n,) int64, -1 where it is in a file of its own."""
        import pyarrow.compute as pc

        sizes = [
            np.full(len(paths), -1, np.int64)
            if encoded is None
            else pc.fill_null(pc.binary_length(encoded), -1).to_numpy(zero_copy_only=False).astype(np.int64)
            for encoded, paths in self.chunks()
        ]
        return np.concatenate([np.empty(0, np.int64), *sizes])


@dataclass(eq=False)
class TableImages:
    """Images in tables; see `EncodedImages` for the rest.

    Attributes:
        splits: names of the parts, for keys.
        tables: one of each part.
        part_of: (N,) int32, which part.
        row_of: (N,) int64, which row of it.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    contents: str
    splits: tuple[str, ...]
    tables: tuple[_Rows, ...]
    part_of: np.ndarray
    row_of: np.ndarray
    val: np.ndarray | None
    left_out: tuple[Broken, ...]
    notes: tuple[str, ...]
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """The split and the row."""
        return f"{self.splits[self.part_of[index]]}/{self.row_of[index]}"

    def encoded(self, index: int) -> bytes:
        """The image as the table holds it, or the file that the table names."""
        return self.tables[self.part_of[index]].read(int(self.row_of[index]))


def from_tables(name: str, parts: Mapping[str, Any], options: Mapping[str, str]) -> TableImages:
    """Data sets in memory-mapped tables as `EncodedImages`.

    Args:
        name: for people.
        parts: data sets by split, training first and then, where there is one, what is held out.
        options: of the source.

    Raises:
        AlitokError: it is not clear which columns are meant, or there are no labelled images.
    """
    features = next(iter(parts.values())).features
    columns = find_columns(features, options, name)
    labels, contents, left_out = Labels(), Contents(), list[Broken]()
    tables, part_of, row_of = [], [], []
    for number, (split, data) in enumerate(parts.items()):
        missing = [column for column in (columns.image, columns.label) if column and column not in data.features]
        if missing:
            raise AlitokError(f"Split {split} of {name} has no column {missing[0]!r}, which the first split has.")
        data = data if data.data.num_rows == len(data) else data.flatten_indices()  # the table itself is read
        tables.append(_Rows(data, columns.image))
        values = data.data.column(columns.label).to_pylist() if columns.label is not None else [name] * len(data)
        for row, (value, size) in enumerate(zip(values, tables[-1].sizes().tolist(), strict=True)):
            label = columns.class_of(value)
            if label is None:
                left_out.append(Broken(f"{split}/{row}", "has no label"))
                continue
            labels.append(label)
            contents.append(split, row, label, size)
            part_of.append(number)
            row_of.append(row)
    classes, rows = labels.finish(columns.names)
    if not len(rows):
        raise AlitokError(f"{name} has no labelled images.")
    part = np.array(part_of, np.int32)
    return TableImages(
        name=name,
        classes=classes,
        labels=rows,
        contents=contents.finish(),
        splits=tuple(parts),
        tables=tuple(tables),
        part_of=part,
        row_of=np.array(row_of, np.int64),
        val=part == 1 if len(parts) > 1 else None,
        left_out=tuple(left_out),
        notes=notes_on(name, columns, classes),
    )


def notes_on(name: str, columns: Columns, classes: Sequence[str]) -> tuple[str, ...]:
    """What a person should know of the columns that were chosen."""
    notes = []
    if columns.label is None:
        notes.append(
            f"{name} has no column that is plainly of labels, so its images are one class; else add ?label=COLUMN."
        )
    if columns.names is not None and len(classes) < len(columns.names):
        notes.append(
            f"{len(columns.names) - len(classes):,} of the {len(columns.names):,} classes of {name} have no images."
        )
    return tuple(notes)
