"""`alitok plan`: what a training on many GPUs takes, before it is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def plan(
    *,
    preset: str = "alitok-256",
    generator: Annotated[Literal["B", "L", "XL"] | None, Parameter(name=["--generator", "--size"])] = None,
    gpus: int = 8,
    gpu: str = "h100",
    stage: Literal["stage1", "stage2", "generator"] | None = None,
    mfu: float = 0.4,
    network: float | None = None,
    precision: Literal["bf16", "fp32"] = "bf16",
    images: int | None = None,
    classes: int | None = None,
    image_size: int = 256,
    image_kb: float | None = None,
    samples: int = 50_000,
    perceptual: Literal["recipe", "none", "local", "convnext", "lpips"] = "recipe",
    config: Path | None = None,
    override: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Operations, memory, data, hours and scaling of each stage, on GPUs that need not be at hand.

    FLOPs and memory are those of the real models, followed step by step without computing them. Hours are as good as
    the share of the data sheet's rate that is assumed: measure a few steps before you rely on them.

    Args:
        preset: a recipe by name, as `alitok train` takes it, but for auto.
        generator: a published generator, with its training.
        gpus: that share each training.
        gpu: a100, a800, h100, h800, h200, b200, l40s or 4090.
        stage: plan this one alone.
        mfu: share of the data sheet's rate that is reached.
        network: Gbit/s from one machine to the others; the usual of such machines unless given.
        precision: of forward passes.
        images: of the training set; ImageNet's or the built-in set's unless given.
        classes: of them, likewise.
        image_size: pixels a side that they can fill, for the presets small and base.
        image_kb: of an image on disk, in thousands of bytes; 110 unless given, but nothing of a built-in set.
        samples: that are drawn at the end.
        perceptual: put the recipe's perceptual weight on one feature network, or on none.
        config: a TOML file with recipe keys that replace the preset's.
        override: single recipe keys, such as `--set stage1.loop.batch_size=1024`.
        json_: print one JSON object instead of tables.
    """
    from alitok.apps.plan.command import PlanOptions, run_plan

    run_plan(
        PlanOptions(
            preset=preset,
            generator=generator,
            gpus=gpus,
            gpu=gpu,
            stage=stage,
            mfu=mfu,
            network=network,
            precision=precision,
            images=images,
            classes=classes,
            image_size=image_size,
            image_kb=image_kb,
            samples=samples,
            perceptual=perceptual,
            config=config,
            overrides=tuple(override or ()),
        ),
        as_json=json_,
    )
