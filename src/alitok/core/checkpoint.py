"""Saved models and pretrained weights: written atomically, read strictly, never executing code in a file.

A saved model is a directory with `config.json` and one safetensors file per part.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, finite, read_json, write_bytes, write_json

Tensors = dict[str, torch.Tensor]
_FAULTS_NAMED = 3  # of each kind, in an error
_PATIENCE = 30.0  # seconds without data, of a download


@dataclass(frozen=True)
class ModelCard:
    """Contents of a card."""

    title: str
    description: str = ""
    data: str = "not stated"  # what it was trained on
    steps: Mapping[str, int] = field(default_factory=dict)  # optimizer steps by stage
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)  # by model
    licence: str = "unknown"  # of the weights
    loader: str = "Pipeline"  # the public class that reads the directory

    def to_markdown(self) -> str:
        """The text; values of the metadata are JSON, which is also valid YAML."""
        facts = {"data": self.data, "steps": dict(self.steps), "metrics": dict(self.metrics), "config": self.config}
        metadata = ["---", "library_name: alitok", "tags: [alitok, class-conditional-image-generation]"]
        metadata += [f"license: {json.dumps(self.licence)}", f"alitok: {json.dumps(finite(facts))}", "---"]
        lines = [*metadata, "", f"# {_line(self.title)}", ""]
        if self.description:
            lines += [self.description, ""]
        lines += ["```python", "import alitok", "", f'model = alitok.{self.loader}.from_pretrained("THIS DIRECTORY")']
        lines += ["```", "", f"- Trained on: {_line(self.data)}", f"- Licence of the weights: {_line(self.licence)}"]
        lines += [f"- {name}: {count:,} steps" for name, count in self.steps.items()]
        if self.metrics:
            lines += ["", "| number | value |", "|---|---|"]
            lines += [f"| {name} | {value:.4g} |" for name, value in self.metrics.items()]
        if self.config:
            lines += ["", "## Configuration", "", "```json", json.dumps(self.config, indent=2), "```"]
        return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to one safetensors file, atomically; OSError where it cannot be written, as on a full disk."""
    with atomic_path(path) as part:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part)
        except SafetensorError as error:  # it has no type of its own for system errors
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def load_tensors(path: Path) -> Tensors:
    """Read a safetensors file into CPU tensors; AlitokError where it is missing, truncated or not safetensors."""
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
    """Read the JSON file that describes a directory, such as `config.json`; it must be of `kind` and have all `keys`.

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


@contextmanager
def patience() -> Iterator[None]:
    """Time out stalled downloads, which otherwise wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_weights(path: Path, advice: str = "check the path") -> Tensors:
    """The named tensors of a `.safetensors` file, else of a pickle that contains nothing else.

    Raises:
        AlitokError: the file is missing, damaged, or holds other things; `advice` ends the message.
    """
    if not path.is_file():
        raise AlitokError(f"{path} does not exist; {advice}.")
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # it fails in many ways, and some of its messages advise executing the file's code
        raise AlitokError(f"{path} is truncated, or holds other things than tensors; {advice}.") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise AlitokError(f"{path} holds other things than named tensors; {advice}.")
    return tensors
