"""Labels files: a CSV, JSON or JSON-lines file that names the class of each image.

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
# Labels files of a folder; metadata.* is the Hub's image folder, dataset.json that of StyleGAN and EDM.
NAMES = ("labels.csv", "labels.json", "labels.jsonl", "metadata.csv", "metadata.jsonl", "dataset.json")

_FILE_COLUMNS = ("file", "file_name", "filename", "path", "image")
_LABEL_COLUMNS = ("label", "class", "category")
_DELIMITERS = ",;\t"
_NAMED = 3  # rows that one message names


class _NoLabelsError(AlitokError):
    """No column holds labels."""


def find_labels(folder: Path) -> Path | None:
    """The labels file in a folder, or None; raises AlitokError where there are several."""
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise AlitokError(f"{folder} has {names}; give the one to use as the source, or remove the other.")
    return found[0] if found else None


def read_labels(path: Path, optional: bool = False) -> dict[str, str]:
    """Class by file name, with `/` normalized, in the order of the file; none if it is `optional` and has no labels.

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


def label_name(label: Any) -> str | None:
    """The class of a label: a name, or an integer as text, also 3.0, as tables with gaps have; None for neither."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, str | int):
        return None
    return str(label).strip() or None


def _json(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AlitokError(f"{path}, line {line or error.lineno}: not valid JSON ({error.msg}).") from None


def _columns(path: Path, header: list[str]) -> tuple[int, int]:
    """Which columns hold file names and labels: the first of the known names that is present."""
    lower, found = [name.lower() for name in header], []
    for known, what in ((_FILE_COLUMNS, "file names"), (_LABEL_COLUMNS, "labels")):
        name = next((name for name in known if name in lower), None)
        if name is None:
            error = _NoLabelsError if known is _LABEL_COLUMNS else AlitokError
            columns = ", ".join(header) or "none"
            raise error(f"{path} has no column of {what}: the columns are {columns}; name one {', '.join(known)}.")
        found.append(lower.index(name))
    return found[0], found[1]


def _from_csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        file, label = _columns(path, header)
        for row in filter(any, reader):
            if len(row) != len(header):
                raise AlitokError(
                    f"{path}, line {reader.line_num}: {len(row)} fields where the header has {len(header)}."
                )
            yield row[file], row[label].strip()
    except csv.Error as error:
        raise AlitokError(f"{path}, line {reader.line_num}: {error}.") from None


def _from_objects(path: Path, rows: list[Any]) -> Iterator[tuple[str, Any]]:
    for row in rows:
        if not isinstance(row, dict):
            raise AlitokError(f"{path}: {json.dumps(row)[:60]} should be an object with a file and a label.")
        values = list(row.values())
        file, label = _columns(path, list(row))
        yield values[file], values[label]


def _from_json(path: Path, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, list):
        return _from_objects(path, value)
    if isinstance(value, dict):
        rows = value.get("labels")
        if isinstance(rows, list) and all(isinstance(row, list) and len(row) == 2 for row in rows):
            return [(row[0], row[1]) for row in rows]
        if rows is None and "labels" in value:  # what StyleGAN's tool writes for images without labels
            raise _NoLabelsError(f"{path} holds no labels; remove it to use the images as one class.")
        if all(isinstance(label, str | int | float) for label in value.values()):
            return value.items()
    raise AlitokError(
        f'{path} has an unknown form; write {{"a.png": "cat"}}, [{{"file": "a.png", "label": "cat"}}] or '
        '{"labels": [["a.png", 3]]}.'
    )


def _table(path: Path, rows: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    table: dict[str, str] = {}
    unlabelled, conflicts = [], []
    for file, label in rows:
        if not isinstance(file, str) or not file.strip():
            raise AlitokError(f"{path}: {json.dumps(file)[:60]} is not a file name.")
        name, class_name = posixpath.normpath(file.strip()), label_name(label)
        if class_name is None:
            unlabelled.append(name)
        elif table.setdefault(name, class_name) != class_name:
            conflicts.append(f"{name} is {table[name]} and {class_name}")
    for found, problem, remedy in (
        (conflicts, "with two classes", "keep one row of each"),
        (unlabelled, "without a label", "label them or remove their rows"),
    ):
        if found:
            more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
            examples = ", ".join(found[:_NAMED]) + more
            raise AlitokError(f"{path} has {counted(len(found), 'image')} {problem}: {examples}; {remedy}.")
    if not table:
        raise AlitokError(f"{path} names no images.")
    return table
