"""Frozen dataclasses in and out of TOML and JSON; unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from alitok.core.errors import AlitokError

T = TypeVar("T")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # pydantic's names for an unknown key


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that rejects unknown keys when read from a file."""
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def require_at_least(value: Any, least: float, *names: str) -> None:
    """Check fields of a config, in its `__post_init__`; AlitokError where one is below `least`."""
    for name in names:
        found = getattr(value, name)
        if not found >= least:  # also rejects NaN
            raise AlitokError(f"{name} must be at least {least}, not {found}")


def to_dict(value: Any) -> dict[str, Any]:
    """A config as nested dicts and lists, ready for JSON; includes fields that are None."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def from_dict(cls: type[T], data: Mapping[str, Any], source: str) -> T:
    """Build the config `cls` from nested mappings, as of JSON or TOML.

    Raises:
        AlitokError: an unknown key (with the nearest known one), a missing key, a wrong type, or a value that
            `__post_init__` rejects; the message begins with `source`.
    """
    import pydantic  # lazily: 0.1 s

    try:
        # TOML dates, which JSON lacks, become strings and are rejected as such.
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(data, default=str))
    except pydantic.ValidationError as error:
        first, keys = _first_fault(cls, error.errors())
        path = _path(keys, data)
        if first["type"] in _UNKNOWN:
            raise AlitokError(f"{source}: {_unknown(cls, keys, path)}") from None
        if first["type"] in ("missing", "missing_keyword_only_argument", "missing_argument"):
            raise AlitokError(f"{source}: key '{path}' is missing; add it.") from None
        message = str(first.get("ctx", {}).get("error", first["msg"])).rstrip(".")
        found = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        where = f"key '{path}'{found}: " if path else ""
        raise AlitokError(f"{source}: {where}{message}.") from None


def _first_fault(cls: type, faults: Sequence[Any]) -> tuple[Any, list[str | int]]:
    """The first of pydantic's faults and its keys; of a union, a fault of the class that knows most of the keys."""
    classes, first = set(_alternatives(cls)), faults[0]
    place = next((index for index, part in enumerate(first["loc"]) if part in classes), None)
    if place is not None:
        same = [fault for fault in faults if fault["loc"][:place] == first["loc"][:place]]
        unknown = Counter(fault["loc"][place] for fault in same if fault["type"] in _UNKNOWN)
        first = min(same, key=lambda fault: unknown[fault["loc"][place]])
    return first, [part for part in first["loc"] if part not in classes]


def _path(keys: Iterable[str | int], data: Any) -> str:
    """Keys in the form of `override`: an item of a list by its `name`, if it has one."""
    parts, place = [], data
    for key in keys:
        try:
            place = place[key]
        except (KeyError, IndexError, TypeError):  # a key that is missing
            place = None
        name = place.get("name") if isinstance(key, int) and isinstance(place, Mapping) else None
        parts.append(str(name or key))
    return ".".join(parts)


def _alternatives(cls: Any) -> Iterable[str]:
    """Names of the classes in unions of configs in `cls`."""
    for _, inner in _fields(cls):
        if len(inner) > 1:
            yield from (each.__name__ for each in inner)
        for each in inner:
            yield from _alternatives(each)


def _unknown(cls: type, keys: Sequence[str | int], path: str) -> str:
    if any("." in key for key in keys if isinstance(key, str)):
        return f"unknown key '{path}'; write dotted keys without quotes."
    *parents, last = (key for key in keys if isinstance(key, str))  # items of a list are alike
    inside, above = ".".join(parents), path.removesuffix(last)
    known = (path.rpartition(".") for path in _paths(cls))
    siblings = sorted({name for parent, _, name in known if parent == inside})
    if last in siblings:  # known to another class of the union
        return f"key '{path}' does not fit the other keys of '{above.rstrip('.')}'."
    near = difflib.get_close_matches(last, siblings, n=1, cutoff=0.6)
    hint = f"did you mean '{above}{near[0]}'?" if near else f"known here: {', '.join(siblings)}."
    return f"unknown key '{path}'; {hint}"


def _paths(cls: Any, prefix: str = "") -> Iterable[str]:
    for name, inner in _fields(cls):
        yield prefix + name
        for each in inner:
            yield from _paths(each, f"{prefix}{name}.")


def _fields(cls: Any) -> Iterable[tuple[str, list[Any]]]:
    """The name of each field, and the configs that its value may be or contain."""
    import typing

    def configs(hint: Any) -> list[Any]:
        parts = typing.get_args(hint)
        return [hint] if dataclasses.is_dataclass(hint) else [inner for part in parts for inner in configs(part)]

    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield field.name, configs(hints[field.name])


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; AlitokError where it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AlitokError(f"No configuration file at {path}; check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AlitokError(f"{path} is not valid TOML: {error}.") from None


def to_toml(data: Mapping[str, Any]) -> str:
    """Nested mappings as TOML text, without keys whose value is None, as TOML has no null."""
    import tomli_w

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: strip(inner) for key, inner in value.items() if inner is not None}
        return [strip(inner) for inner in value] if isinstance(value, list | tuple) else value

    return tomli_w.dumps(strip(data))


def merge(base: Any, over: Any, source: str) -> Any:
    """`base` updated with the values of `over`, key by key at every depth.

    A list replaces a list, but each of its items is merged with the item of the same `name`, or at the same index if it
    has no name. A mapping over a list changes the items that its keys name.

    Raises:
        AlitokError: a key names no item of a list; the message begins with `source`.
    """
    if isinstance(over, dict) and isinstance(base, dict):
        return base | {key: merge(base.get(key), value, source) for key, value in over.items()}
    if isinstance(over, dict) and isinstance(base, list):
        changed = {_index(base, key, source): value for key, value in over.items()}
        return [merge(item, changed[place], source) if place in changed else item for place, item in enumerate(base)]
    if isinstance(over, list) and isinstance(base, list):
        return [merge(_counterpart(base, place, item), item, source) for place, item in enumerate(over)]
    return over


def _counterpart(base: list[Any], place: int, item: Any) -> Any:
    """The old item that a new item of a list is merged with."""
    if isinstance(item, dict) and "name" in item:
        return next((other for other in base if isinstance(other, dict) and other.get("name") == item["name"]), None)
    return base[place] if place < len(base) else None


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply `key.path=value` assignments to nested mappings and return the result.

    An item of a list is named by its number from 0, or by its `name`: `stage1.phases.main.steps=100`.
    Values are read as TOML (`3e-4`, `true`, `[1, 2]`); anything else is a string.

    Raises:
        AlitokError: an assignment without `=`, or a path through a value without keys.
    """
    result: dict[str, Any] = json.loads(json.dumps(data))  # a copy at every depth
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise AlitokError(f"Cannot read the override '{assignment}'; write it as key.path=value.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, last = path.strip().split(".")
        place, where = result, f"Override '{assignment}'"  # type: Any, str
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else place[_index(place, parent, where)]
            if not isinstance(place, dict | list):
                raise AlitokError(f"{where}: '{parent}' has no keys.")
        place[last if isinstance(place, dict) else _index(place, last, where)] = value
    return result


def _index(items: list[Any], text: str, where: str) -> int:
    """The index of an item given by its index or its `name`; `where` begins the error."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if text in names:
        return names.index(text)
    if not text.isdecimal() or int(text) >= len(items):
        known = ", ".join([str(number) for number in range(len(items))] + [name for name in names if name])
        raise AlitokError(f"{where}: '{text}' is not an item of this list; choose one of: {known}.")
    return int(text)
