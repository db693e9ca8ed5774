"""The tokenizer that is probed: a saved one of ours, or any other from a Python module, `package.module:name`.

That is an object with `encode` and `decode`, or a class or function without arguments that returns one; the module
is imported, that is, its code is run.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from alitok.core.checkpoint import fingerprint
from alitok.core.config import to_dict
from alitok.core.errors import AlitokError
from alitok.core.files import sha256
from alitok.metrics.codec import Codec
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import TokenizerCodec

_IN_MODULE = re.compile(r"([^\W\d][\w.]*):([^\W\d][\w.]*)")


@dataclass(frozen=True, eq=False)
class ProbedTokenizer:
    """A tokenizer to probe, identified by `facts`; its `codec` decodes with the last decoder, `image_size` is in px.

    `grid` is patches per side, None = all codes form a square; `codebook_size` None if unknown.
    """

    name: str
    codec: Codec
    decoders: Mapping[str, Codec]
    image_size: int
    grid: int | None
    codebook_size: int | None
    facts: Mapping[str, Any]


@contextmanager
def open_tokenizer(
    name: str, *, image_size: int | None, grid: int | None, device: torch.device
) -> Iterator[ProbedTokenizer]:
    """The tokenizer while the context lasts, in which modules are also imported from the current folder.

    `image_size` and `grid` are for a tokenizer from a module without them; a torch module is moved to `device`.
    AlitokError where it does not exist, cannot be loaded, or its image size is unknown.
    """
    match = None if Path(name).exists() else _IN_MODULE.fullmatch(name)
    if match is None:
        for given, option in ((image_size, "--image-size"), (grid, "--grid")):
            if given is not None:
                raise AlitokError(f"A saved tokenizer has its own sizes; leave {option} out.")
        yield _saved(name, device)
        return
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield _from_module(name, match[1], match[2], image_size, grid, device)
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _saved(name: str, device: torch.device) -> ProbedTokenizer:
    tokenizer = Tokenizer.from_pretrained(name).to(device)
    config = tokenizer.config
    codecs: dict[str, Codec] = {stage: TokenizerCodec(tokenizer, stage) for stage in tokenizer.stages}
    facts = {
        "tokenizer weights": fingerprint(tokenizer.state_dict(), to_dict(config)),
        "codes": tokenizer.codes_fingerprint(),
    }
    last = list(codecs.values())[-1]
    return ProbedTokenizer(name, last, codecs, config.image_size, config.grid, config.codebook_size, facts)


def _from_module(
    name: str, module_name: str, path: str, image_size: int | None, grid: int | None, device: torch.device
) -> ProbedTokenizer:
    module = _import(module_name)
    codec = _instantiate(name, _attribute(module, path))
    if isinstance(codec, nn.Module):
        codec = codec.to(device).eval()
    size = getattr(codec, "image_size", None) if image_size is None else image_size
    grid = getattr(codec, "grid", None) if grid is None else grid
    if size is None:
        raise AlitokError(f"{name} has no attribute image_size; give the size of its images in px with --image-size.")
    for what, value in (("image_size", size), ("grid", grid)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise AlitokError(f"The {what} of {name} must be a positive integer, not {value!r}.")
    source = getattr(module, "__file__", None)
    facts = {} if source is None else {"module's file": Path(source).name, "module's hash": sha256(Path(source))[:16]}
    return ProbedTokenizer(name, codec, {"decoder": codec}, size, grid, getattr(codec, "codebook_size", None), facts)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise AlitokError(
                f"There is no Python module {name}, neither installed nor in this folder; start alitok where it is."
            ) from None
        raise AlitokError(f"Importing {name} fails: {error}.") from error
    except Exception as error:  # foreign code may raise anything
        raise AlitokError(f"Importing {name} fails with {type(error).__name__}: {error}.") from error


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            near = difflib.get_close_matches(part, public, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise AlitokError(f"{module.__name__} has no '{path}'{hint}")
        found = getattr(found, part)
    return found


def _instantiate(name: str, found: Any) -> Any:
    if not isinstance(found, type) and hasattr(found, "encode"):
        return found
    if not callable(found):
        raise AlitokError(f"{name} has no method encode, and is not a class or function that returns an object.")
    try:
        return found()
    except Exception as error:  # foreign code may raise anything
        raise AlitokError(f"Calling {name} without arguments fails with {type(error).__name__}: {error}.") from error
