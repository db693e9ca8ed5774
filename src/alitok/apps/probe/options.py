"""The options of `alitok probe`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What to probe, and on which images."""

    tokenizer: str
    """A saved tokenizer or model, by directory or name on the hub; or package.module:name, an object with encode and
    decode, or a class or function that returns one. That module is imported: its code is run."""
    data: str
    """`digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`."""
    out: Path | None = None
    """A directory, new or of an earlier probe of the same; runs/probe-TOKENIZER-DATA unless given, with -generator
    appended for a given generator. A tokenizer in runs/demo/model is called demo."""
    generator: str | None = None
    """A saved generator or model that predicts the codes, conditioned on the class of each image; unless given, a small
    one is trained on the codes of training images."""
    images: int | None = None
    """Validation images whose patches are replaced; 128, or all if there are fewer, unless given."""
    per_position: int | None = None
    """Images in which each patch, and each code, is replaced; all for up to 100 patches and 16 for more unless
    given."""
    image_size: int | None = None
    """Image size in px of a tokenizer from a module without that attribute."""
    grid: int | None = None
    """Patches per side, likewise; codes beyond them are its prefix. Unless given, all codes form a square grid."""
    seed: int = 0
    """Seed of the validation split, if the data has none, and of everything random."""
    batch_size: int = 64
    """Images per call of the tokenizer."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto takes the first available of cuda, mps and cpu."""
