"""Weights of others' networks: how long a download is waited for, and tensors from a file that may hold anything.

Enters: the path of a file. Leaves: tensors by name; nothing that the file holds is run.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from alitok.core.checkpoint import Tensors, load_tensors
from alitok.core.errors import AlitokError

_PATIENCE = 30.0  # seconds without a byte before a download is given up


@contextmanager
def patience() -> Iterator[None]:
    """Give up a download that stands still: without this a silent network is waited for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_weights(path: Path, advice: str = "check the path") -> Tensors:
    """The named tensors of a safetensors file, or of a pickle that holds nothing else.

    Args:
        path: of the file; by its ending safetensors, else a pickle.
        advice: what to do where the file is none of this, without a full stop.

    Raises:
        AlitokError: the file is missing, damaged, or holds other things.
    """
    if not path.is_file():
        raise AlitokError(f"{path} does not exist; {advice}.")
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the reader stumbles in many ways, and some of its messages advise to run the file's code
        raise AlitokError(f"{path} is truncated, or holds other things than tensors; {advice}.") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise AlitokError(f"{path} holds other things than named tensors; {advice}.")
    return tensors
