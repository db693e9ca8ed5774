"""Saved models: a directory with `config.json` and one safetensors file per part, written atomically, read strictly."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from alitok.core.card import ModelCard
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, read_json, write_bytes, write_json

Tensors = dict[str, torch.Tensor]
_FAULTS_NAMED = 3  # of each kind, in an error


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to one safetensors file, atomically.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    with atomic_path(path) as part:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part)
        except SafetensorError as error:  # it has no type of its own for system errors
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def load_tensors(path: Path) -> Tensors:
    """Read a safetensors file into CPU tensors.

    Raises:
        AlitokError: the file is missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except FileNotFoundError:
        raise AlitokError(f"{path} does not exist; check the path.") from None
    except SafetensorError as error:
        raise AlitokError(f"{path} is truncated or not a safetensors file ({error}); restore or delete it.") from None


def require_same(
    wanted: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], source: object, most: int | None = None
) -> None:
    """Check that `tensors` match `wanted` exactly; one error lists every fault, or the first `most` of each kind.

    Raises:
        AlitokError: a tensor is missing, unexpected, of another shape or kind of number, or not finite.
    """
    wrong = []
    for name in wanted.keys() & tensors.keys():
        found, need = tensors[name], wanted[name]
        if found.shape != need.shape:
            wrong.append(f"{name} is {tuple(found.shape)}, not {tuple(need.shape)}")
        elif found.is_floating_point() != need.is_floating_point():
            wrong.append(f"{name} holds {found.dtype}, not {need.dtype}")
        elif found.is_floating_point() and not found.isfinite().all():
            wrong.append(f"{name} holds values that are not finite numbers")
    missing = [f"missing {name}" for name in wanted.keys() - tensors.keys()]
    unexpected = [f"unexpected {name}" for name in tensors.keys() - wanted.keys()]
    faults = [fault for kind in (wrong, missing, unexpected) for fault in _few(kind, most)]
    if faults:
        raise AlitokError(f"{source} does not fit this model: {'; '.join(faults)}.")


def _few(faults: Sequence[str], most: int | None) -> list[str]:
    shown = sorted(faults)[:most]
    left = len(faults) - len(shown)
    return [*shown, f"and {left:,} more"] if left else shown


def load_strictly(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: object) -> None:
    """Load `tensors` into `module` if they match exactly; the error lists a few faults."""
    require_same(module.state_dict(), tensors, source, _FAULTS_NAMED)
    module.load_state_dict(dict(tensors))


def save_model(
    directory: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    parts: Mapping[str, nn.Module],
    class_names: Sequence[str] = (),
    card: ModelCard,
) -> None:
    """Write `config.json`, `PART.safetensors` for each part and the card; the directory is replaced atomically.

    Raises:
        AlitokError: `directory` contains anything but a model of the same kind; it is left unchanged.
    """
    if directory.is_dir() and any(directory.iterdir()):
        try:
            load_head(directory / "config.json", kind)
        except AlitokError:
            raise AlitokError(
                f"{directory} holds other files than a saved {kind}; give a new or empty directory."
            ) from None
    with atomic_path(directory) as whole:
        whole.mkdir()
        for name, module in parts.items():
            save_tensors(whole / f"{name}.safetensors", module.state_dict())
        head = {"kind": kind, "config": config, "class_names": list(class_names)}
        write_json(whole / "config.json", head)
        write_bytes(whole / "README.md", replace(card, config=config).to_markdown().encode())


def load_head(path: Path, kind: str, *keys: str) -> dict[str, Any]:
    """Read the JSON file that describes a directory, such as the `config.json` of `save_model`.

    Args:
        path: the file.
        kind: what it must describe.
        keys: further keys that it must have.

    Raises:
        AlitokError: the file is missing, of another kind, or lacks a key.
    """
    head = read_json(path)
    found = head.get("kind") if isinstance(head, dict) else None
    if found != kind:
        raise AlitokError(f"{path} describes a model of kind '{found}', not '{kind}'; give the right directory.")
    missing = [key for key in keys if key not in head]
    if missing:
        raise AlitokError(f"{path} is damaged: it lacks {', '.join(missing)}; restore the file.")
    return head


def load_parts(directory: Path, parts: Mapping[str, nn.Module]) -> None:
    """Load `PART.safetensors` into each module, strictly."""
    for name, module in parts.items():
        path = directory / f"{name}.safetensors"
        load_strictly(module, load_tensors(path), path)


def fingerprint(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> str:
    """A short hash of a config and of every tensor's name, shape and bytes."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else repr(tensor.item()).encode())
    return digest.hexdigest()[:16]
