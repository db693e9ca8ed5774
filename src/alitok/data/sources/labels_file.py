"""Files that say which class each image has.

Enters: a CSV, JSON or JSON-lines file. Leaves: class by name of file, as written but with `/` tidied. Known forms:

    CSV and JSON lines   a column file, file_name, filename, path or image, and one of label, class or category
    JSON                 {"a.png": "cat"}, [{"file": "a.png", "label": "cat"}], or {"labels": [["a.png", 3]]}
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alitok.core.console import counted
from alitok.core.errors import AlitokError

LABEL_SUFFIXES = frozenset({".csv", ".json", ".jsonl"})
# What a folder's labels may be in; metadata.* is the Hub's image folder, dataset.json that of StyleGAN and EDM.
NAMES = ("labels.csv", "labels.json", "labels.jsonl", "metadata.csv", "metadata.jsonl", "dataset.json")
FILE_COLUMNS = ("file", "file_name", "filename", "path", "image")
LABEL_COLUMNS = ("label", "class", "category")

_DELIMITERS = ",;\t"
_NAMED = 3  # rows that one message names


def find_labels(folder: Path) -> Path | None:
    """The labels file in a folder, or None.

    Raises:
        AlitokError: there are several.
    """
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise AlitokError(f"{folder} has {names}; give the one to use as the source, or remove the other.")
    return found[0] if found else None


def read_labels(path: Path, optional: bool = False) -> dict[str, str]:
    """Read a labels file.

    Args:
        path: the file.
        optional: a file in which no column holds labels gives an empty table instead of an error.

    Returns:
        Class by name of file, in the order of the file.

    Raises:
        AlitokError: the file cannot be read, has another form, or gives an image two different classes.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AlitokError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise AlitokError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    try:
        if path.suffix.lower() == ".csv":
            return _table(path, _from_csv(path, text))
        if path.suffix.lower() == ".jsonl":
            lines = enumerate(text.splitlines(), start=1)
            return _table(path, _from_objects(path, [_json(path, line, at) for at, line in lines if line.strip()]))
        return _table(path, _from_json(path, _json(path, text)))
    except _NoLabelsError:
        if optional:
            return {}
        raise


class _NoLabelsError(AlitokError):
    """No column holds labels."""


def _json(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AlitokError(f"{path}, line {line or error.lineno}: this is not valid JSON ({error.msg}).") from None


def _from_csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        file, label = (_column(path, header, known, what) for known, what in _COLUMNS)
        for row in reader:
            if not any(row):
                continue
            if len(row) != len(header):
                raise AlitokError(
                    f"{path}, line {reader.line_num}: {len(row)} fields where the header has {len(header)}."
                )
            yield row[file], row[label].strip()
    except csv.Error as error:
        raise AlitokError(f"{path}, line {reader.line_num}: {error}.") from None


_COLUMNS = ((FILE_COLUMNS, "names of files"), (LABEL_COLUMNS, "labels"))


def _column(path: Path, names: list[str], known: tuple[str, ...], what: str) -> int:
    """Which column holds `what`; the first of the known names that is there."""
    lower = [name.lower() for name in names]
    for name in known:
        if name in lower:
            return lower.index(name)
    error = _NoLabelsError if known is LABEL_COLUMNS else AlitokError
    raise error(
        f"{path} has no column of {what}: the columns are {', '.join(names) or 'none'}; name one {', '.join(known)}."
    )


def _from_objects(path: Path, rows: list[Any]) -> Iterator[tuple[str, Any]]:
    for row in rows:
        if not isinstance(row, dict):
            raise AlitokError(f"{path}: {json.dumps(row)[:60]} should be an object with a file and a label.")
        names = list(row)
        file, label = (names[_column(path, names, known, what)] for known, what in _COLUMNS)
        yield row[file], row[label]


def _from_json(path: Path, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, list):
        return _from_objects(path, value)
    if isinstance(value, dict):
        pairs = value.get("labels")
        if isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return [(pair[0], pair[1]) for pair in pairs]
        if pairs is None and "labels" in value:  # what StyleGAN's tool writes for images without labels
            raise _NoLabelsError(f"{path} holds no labels; remove it to use the images as one class.")
        if all(isinstance(label, str | int | float) for label in value.values()):
            return value.items()
    raise AlitokError(
        f'{path} has an unknown form; write {{"a.png": "cat"}}, [{{"file": "a.png", "label": "cat"}}] or '
        '{"labels": [["a.png", 3]]}.'
    )


def _table(path: Path, pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    table: dict[str, str] = {}
    unlabelled, contradictions = [], []
    for file, label in pairs:
        if not isinstance(file, str) or not file.strip():
            raise AlitokError(f"{path}: {json.dumps(file)[:60]} is no name of a file.")
        name, class_name = posixpath.normpath(file.strip()), label_name(label)
        if class_name is None:
            unlabelled.append(name)
        elif table.setdefault(name, class_name) != class_name:
            contradictions.append(f"{name} is {table[name]} and {class_name}")
    if contradictions:
        raise AlitokError(
            f"{path} gives {counted(len(contradictions), 'image')} two classes: {_few(contradictions)}; keep one row "
            "of each."
        )
    if unlabelled:
        raise AlitokError(
            f"{path} names {counted(len(unlabelled), 'image')} without a label: {_few(unlabelled)}; label them or "
            "remove their rows."
        )
    if not table:
        raise AlitokError(f"{path} names no images.")
    return table


def _few(texts: list[str]) -> str:
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more


def label_name(label: Any) -> str | None:
    """The class that a label stands for: a name, or a number as text; None if it is neither.

    A table with gaps makes 3.0 of 3.
    """
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, str | int):
        return None
    return str(label).strip() or None
