"""The options of `alitok fit`, `demo`, `train` and `encode`. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.core.choices import CropRecipe, DeviceName, SplitName

PerceptualName = Literal["recipe", "none", "local", "convnext", "lpips"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every training takes."""

    seed: int | None = None
    """seed of all random numbers; default: that of the run in OUT, or 0"""

    config: Path | None = None
    """a TOML file with recipe keys that replace the preset's"""

    overrides: Annotated[
        tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=True, show_default=False)
    ] = ()
    """single recipe keys, such as `--set stage1.phases.main.steps=100 engine.grad_accum_steps=2`"""

    device: DeviceName = "auto"
    """where to compute; auto takes the first available of cuda, mps and cpu"""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(RunOptions):
    """Which recipe."""

    preset: str | None = None
    """a recipe by name: digits, photos, alitok-256, alitok-256-v1, alitok-512; small or base, fitted to the images; or
    auto: that of a built-in data set, else base on a GPU and small elsewhere. Default: that of the run in OUT, or
    auto"""

    perceptual: PerceptualName = "recipe"
    """put all perceptual weight of the recipe on one feature network, or on none; local is trained on the images"""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(RunOptions):
    """How `alitok demo` trains."""

    out: Path | None = None
    """run directory; default: runs/NAME"""

    fresh: Annotated[bool, Parameter(negative="")] = False
    """delete what an earlier run wrote to OUT, and nothing else there, and start over"""


@dataclass(frozen=True, kw_only=True)
class FitOptions(DemoOptions, RecipeOptions):
    """How `alitok fit` trains."""

    dry_run: Annotated[bool, Parameter(negative="")] = False
    """print the steps and the estimated time, and stop"""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RecipeOptions):
    """How `alitok train` trains one stage."""

    out: Path
    """run directory, shared by all stages"""

    data: str | None = None
    """`digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`. Default:
    that of the run in OUT"""

    size: Literal["B", "L", "XL"] | None = None
    """a published generator, with its training and guidance"""

    codes: Path | None = None
    """for the generator, in place of --data: a code store that `alitok encode --split train` wrote"""

    val_codes: Path | None = None
    """with --codes: a code store of `--split val`"""

    tokenizer: Path | None = None
    """with --codes: the tokenizer that encoded them; default: the path in the store"""

    dry_run: Annotated[bool, Parameter(negative="")] = False
    """print the schedule (steps, images, epochs, learning rates) and stop"""

    preflight: Annotated[bool, Parameter(negative="")] = False
    """run the steps before the stage, check images, labels and codes, overfit one batch, write the findings to
    OUT/preflight/, and stop"""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How `alitok encode` writes a code store."""

    tokenizer: Path
    """a saved tokenizer, or a saved pipeline that has one"""

    data: str
    """`digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`"""

    out: Path
    """the code store to write, a directory"""

    crops: CropRecipe = "centre"
    """crops of each image: centre; flip, also mirrored; ten, corners and centre at 1.1 x, also mirrored"""

    split: SplitName = "all"
    """which images: all, train or val"""

    part: str | None = None
    """the part of independent job i of n, as i/n"""

    batch_size: int = 256
    """crops encoded at a time"""

    workers: int = 0
    """processes that load images; codes do not depend on it"""

    fresh: Annotated[bool, Parameter(negative="")] = False
    """delete the code store at OUT, finished or not, and start over"""

    device: DeviceName = "auto"
    """where to compute; auto takes the first available of cuda, mps and cpu"""

    seed: int = 0
    """decides which images are in the validation set"""
