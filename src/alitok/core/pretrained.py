"""Pretrained weights: a timeout for downloads, and tensors from untrusted files without executing code in them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from alitok.core.checkpoint import Tensors, load_tensors
from alitok.core.errors import AlitokError

_PATIENCE = 30.0  # seconds without data


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
    """The named tensors of a safetensors file, or of a pickle that contains nothing else.

    Args:
        path: `.safetensors`, else a pickle.
        advice: what to do otherwise, without a period.

    Raises:
        AlitokError: the file is missing, damaged, or holds other things.
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
