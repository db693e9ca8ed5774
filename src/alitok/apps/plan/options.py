"""The options of `alitok plan`. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What `alitok plan` plans, on which GPUs."""

    preset: str = "alitok-256"
    """a recipe by name, as for `alitok train`, except auto"""

    generator: Annotated[Literal["B", "L", "XL"] | None, Parameter(name=["--generator", "--size"])] = None
    """a published generator, with its training"""

    gpus: int = 8
    """number of GPUs of each training"""

    gpu: str = "h100"
    """a100, a800, h100, h800, h200, b200, l40s or 4090"""

    stage: Literal["stage1", "stage2", "generator"] | None = None
    """plan only this stage"""

    mfu: float = 0.4
    """fraction of the data sheet's rate that is reached"""

    network: float | None = None
    """Gbit/s from one machine to the others; default: the usual of such machines"""

    precision: Literal["bf16", "fp32"] = "bf16"
    """of forward passes"""

    images: int | None = None
    """size of the training set; default: that of ImageNet or the built-in set"""

    classes: int | None = None
    """number of classes; default: as for --images"""

    image_size: int = 256
    """px of the source images, for the presets small and base"""

    image_kb: float | None = None
    """kB of an image on disk; default: 110, or nothing for a built-in set"""

    samples: int = 50_000
    """number of images to sample at the end"""

    perceptual: Literal["recipe", "none", "local", "convnext", "lpips"] = "recipe"
    """put the recipe's perceptual weight on one feature network, or on none"""

    config: Path | None = None
    """a TOML file with recipe keys that replace the preset's"""

    overrides: Annotated[
        tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=True, show_default=False)
    ] = ()
    """single recipe keys, such as `--set stage1.loop.batch_size=1024`"""

    json: Annotated[bool, Parameter(negative="")] = False
    """print one JSON object instead of tables"""
