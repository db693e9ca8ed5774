"""The options of `alitok sample` and `alitok complete`. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.core.choices import DeviceName
from alitok.sampling.settings import EnginePrecision, SamplingOverrides

SampleFormat = Literal["png", "webp", "npz"]


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which images `alitok sample` generates, and where they go."""

    out: Path
    """a directory, for files in class folders (a source that every command can read), or a file that ends in .npz, with
    arr_0 the images (N, h, h, 3) uint8 and arr_1 their class numbers (N,) int64"""

    num: int | None = None
    """total number of images; if not a multiple of the classes, the first classes get one more. Default without --num
    and --per-class: one of each class, at most 64"""

    per_class: int | None = None
    """images of each class"""

    classes: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True, show_default=False)] = ()
    """class names or numbers, used in turn: image i has class i % C of C; default: all of the model's"""

    seed: int = 0
    """seed of the job; images differ by their number"""

    format: SampleFormat | None = None
    """png, webp (lossless) or npz; default: by OUT"""

    batch_size: int | None = None
    """images sampled at a time; default: 256 on a GPU and 64 elsewhere, or what fits into memory"""

    precision: EnginePrecision = "fp32"
    """of the generator: bf16 and int8 (on a CPU) are faster and not exact"""

    sampling: Annotated[SamplingOverrides, Parameter(name="*")] = field(default_factory=SamplingOverrides)
    """settings that replace the model's own"""

    device: DeviceName = "auto"
    """where to compute"""

    fresh: Annotated[bool, Parameter(negative="")] = False
    """delete what an earlier job wrote to OUT, and nothing else there, and start over"""


@dataclass(frozen=True, kw_only=True)
class CompleteOptions:
    """How `alitok complete` continues an image."""

    rows: int
    """rows of patches to keep, from 0 to all of them"""

    out: Path
    """the PNG file to write"""

    class_name: Annotated[str | None, Parameter(name="--class")] = None
    """class of the completions, a name or a number; default: the class that the image's folder is named after"""

    count: int = 6
    """number of completions"""

    seed: int = 0
    """seed of the completions, which differ by their number"""

    batch_size: int = 64
    """completions sampled at a time"""

    precision: EnginePrecision = "fp32"
    """of the generator: bf16 and int8 (on a CPU) are faster and not exact"""

    sampling: Annotated[SamplingOverrides, Parameter(name="*")] = field(default_factory=SamplingOverrides)
    """settings that replace the model's own"""

    device: DeviceName = "auto"
    """where to compute"""
