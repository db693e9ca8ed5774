"""Numbers and hashes of what commands leave: JSON, weights, arrays, images."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file as load_arrays

Values = dict[str, Any]

VARYING = re.compile(r"seconds|per_second|memory|threads|cells_at_a_time")  # keys of measured JSON
LONGEST_LIST = 8  # of numbers, which is hashed beyond


def digest(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """Hash of names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, array in arrays:
        total.update(f"{name} {array.dtype} {array.shape};".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def one(array: Any) -> str:
    return digest([("", np.asarray(array))])


def unnamed(arrays: Iterable[np.ndarray]) -> str:
    """Hash of arrays whose names and order may change."""
    return together(map(one, arrays))


def npz(path: Path) -> str:
    with np.load(path) as file:
        return unnamed(file[name] for name in file.files if file[name].dtype.kind in "biuf")


def weights(folder: Path) -> Values:
    """The hash of each safetensors file's tensors, whatever its metadata."""
    files = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder).with_suffix("")): digest(sorted(load_arrays(path).items())) for path in files}


def pixels(data: str) -> str:
    return one(Image.open(io.BytesIO(base64.b64decode(data))))


def numbers(value: Any) -> Any:
    """Numbers and booleans of JSON without what varies; an image as base64 becomes the hash of its pixels."""
    if isinstance(value, dict):
        found = {key: numbers(each) for key, each in value.items() if not VARYING.search(key)}
        return {key: each for key, each in found.items() if each is not None}
    if isinstance(value, list):
        if len(value) > LONGEST_LIST and all(isinstance(each, int | float) for each in value):
            return one(np.asarray(value))
        found = {str(place): numbers(each) for place, each in enumerate(value)}
        return {key: each for key, each in found.items() if each is not None}
    if isinstance(value, str) and value.startswith(("iVBORw0KGgo", "UklGR")):
        return pixels(value)
    return value if isinstance(value, int | float) else None


def flat(value: Any, name: str) -> Values:
    if not isinstance(value, dict):
        return {name: value}
    return {key: each for part, inner in value.items() for key, each in flat(inner, f"{name}.{part}").items()}


def npz_files(paths: Iterable[Path]) -> str:
    return together(map(npz, paths))


def together(hashes: Iterable[str]) -> str:
    """Hash of hashes in any order."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def all_numbers(value: Any) -> Any:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found = {str(key): all_numbers(each) for key, each in pairs}
        return {key: each for key, each in found.items() if each is not None}
    return value if isinstance(value, int | float) else None
