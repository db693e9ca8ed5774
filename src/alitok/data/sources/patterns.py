"""Names that stand for several files, such as `shards/train-{000..012}.tar`, and options after a name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from pathlib import Path

from alitok.core.errors import AlitokError
from alitok.data.sources.images import TRAIN, val_name

OPTIONS = ("split", "val", "image", "label", "config", "streaming", "mirror")

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PART = re.compile(r"(train|validation|valid|val|test)(?![a-z])", re.IGNORECASE)
_MOST = 100_000  # names that braces may stand for


def with_options(data: str, keys: str = "|".join(OPTIONS)) -> tuple[str, dict[str, str]]:
    """Separate a name from its options, as in `NAME?key=value&key=value`; AlitokError for one given twice.

    A `?` before anything but a known option, matched by the pattern `keys`, is part of the name, as in a glob or a URL.
    """
    option = f"(?:{keys})=[^&]*"
    match = re.fullmatch(rf"(.*?)\?({option}(?:&{option})*)", data)
    return (data, {}) if match is None else (match[1], read_options(data, match[2]))


def read_options(data: str, text: str) -> dict[str, str]:
    """`key=value&key=value` as a dictionary; AlitokError naming `data` for another form or an option given twice."""
    items = [item.partition("=") for item in text.split("&") if item]
    options = {key: value for key, _, value in items}
    if len(options) < len(items) or not all(key and value for key, _, value in items):
        raise AlitokError(f"{data}: write options as ?key=value&key=value, each once.")
    return options


def require_options(data: str, options: Mapping[str, str], *known: str) -> None:
    """Raise AlitokError unless all options apply to this kind of data."""
    unknown = [key for key in options if key not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}."
        raise AlitokError(f"{data} takes no option {unknown[0]}; {hint}")


def is_on(name: str, value: str) -> bool:
    """The value of an option that is 1 or 0; raises AlitokError for anything else."""
    if value.lower() not in ("0", "1", "false", "true"):
        raise AlitokError(f"The option {name} is 1 or 0, not {value!r}.")
    return value.lower() in ("1", "true")


def is_url(name: str) -> bool:
    """Whether it begins with a scheme, such as https:// or s3://."""
    return re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) is not None


def is_pattern(name: str) -> bool:
    """Whether it may stand for several files."""
    return re.search(r"[*?\[{]", name) is not None


def expand_braces(name: str) -> list[str]:
    """`a{1,2}` is a1 and a2; `{08..10}` is 08, 09 and 10; several multiply. AlitokError for too many names."""
    pieces = _BRACES.split(name)
    choices = [[piece] if place % 2 == 0 else _choices(piece) for place, piece in enumerate(pieces)]
    if (count := prod(map(len, choices))) > _MOST:
        raise AlitokError(f"{name} stands for {count:,} files; the limit is {_MOST:,}.")
    return ["".join(choice) for choice in product(*choices)]


def _choices(inside: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",")
    first, last = int(match[1]), int(match[2])
    if abs(last - first) >= _MOST:
        raise AlitokError(f"{{{inside}}} stands for too many files; the limit is {_MOST:,}.")
    step = 1 if last >= first else -1
    return [str(number).zfill(len(match[1])) for number in range(first, last + step, step)]


def expand_paths(name: str) -> list[Path]:
    """The files that a path with braces and wildcards stands for, in order.

    A file or folder of exactly this name wins, whatever characters it has. Wildcards do not match hidden files.

    Raises:
        AlitokError: one of them does not exist, or nothing matches.
    """
    path = Path(name).expanduser().absolute()
    root, rest = Path(path.anchor), list(path.parts[1:])
    while rest and (root / rest[0]).exists():
        root /= rest.pop(0)
    if not rest:
        return [root]
    found = []
    for each in expand_braces("/".join(rest)):
        if (root / each).exists():
            found.append(root / each)
            continue
        matches = root.glob(each) if is_pattern(each) else ()
        files = sorted(path for path in matches if path.is_file() and not path.name.startswith("."))
        if not files:
            raise AlitokError(f"There is no file {root / each}; check the name.")
        found += files
    return list(dict.fromkeys(found))


def divide(paths: Iterable[Path]) -> tuple[list[Path], list[Path] | None, tuple[str, ...]]:
    """Files for training, for validation (None where names as `val-00000.tar` do not tell), and notes on the rest."""
    paths = list(paths)
    parts = {path: (match[1].lower() if (match := _PART.match(path.name)) else "") for path in paths}
    val = val_name(parts.values())
    if TRAIN not in parts.values() or val is None:
        return paths, None, ()
    unused = [path.name for path in paths if parts[path] not in (TRAIN, val)]
    train, held = ([path for path in paths if parts[path] == part] for part in (TRAIN, val))
    notes = [f"{len(unused):,} files are not of {TRAIN} or {val} and not used, such as {unused[0]}."] if unused else []
    return train, held, tuple(notes)
