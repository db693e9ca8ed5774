"""A plan as it is asked for on the command line.

Enters: options. Leaves: tables or one JSON object on the standard output.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from alitok.apps.plan.budget import Budget, PlanRequest, make_budget
from alitok.apps.plan.hardware import HalfOrFull, gpu_named
from alitok.apps.plan.tables import show, to_json
from alitok.apps.plan.traffic import Assumptions
from alitok.core.errors import AlitokError
from alitok.data.sources.builtin import BUILTIN
from alitok.recipes.fitted import FITTED, fitted
from alitok.recipes.presets import IMAGENET_IMAGES, RECIPE_CLASSES, RECIPES, STAGES, Recipe, StageName
from alitok.run.options import PerceptualName
from alitok.run.resolve import altered

_BUILT_IN = {"digits": 1438, "photos": 1792}  # training images
_IMAGENET_KB = 110.0  # of an image
_WIDTH = 150  # of tables that are not for a terminal


@dataclass(frozen=True)
class PlanOptions:
    """The options of `alitok plan`; None takes what is usual."""

    preset: str = "alitok-256"
    generator: str | None = None
    gpus: int = 8
    gpu: str = "h100"
    stage: StageName | None = None
    mfu: float = 0.4
    network: float | None = None
    precision: HalfOrFull = "bf16"
    images: int | None = None
    classes: int | None = None
    image_size: int = 256
    image_kb: float | None = None
    samples: int = 50_000
    perceptual: PerceptualName = "recipe"
    config: Path | None = None
    overrides: tuple[str, ...] = ()


def run_plan(options: PlanOptions, *, as_json: bool = False) -> Budget:
    """Plan and print.

    Raises:
        AlitokError: an unknown name, a number that makes no sense, or a batch that does not divide over the GPUs.
    """
    gpu = gpu_named(options.gpu)
    if options.network is not None:
        if options.network <= 0:
            raise AlitokError(f"--network must be above 0 Gbit/s, not {options.network:g}.")
        gpu = dataclasses.replace(gpu, network=options.network * 1e9 / 8)
    request = _request(options)
    recipe = _recipe(options, request.images)
    stages = STAGES if options.stage is None else (options.stage,)
    told = Console(stderr=True, quiet=not sys.stderr.isatty())
    with told.status("Looking") as status:
        budget = make_budget(
            recipe, gpu, request, Assumptions(mfu=options.mfu), stages, lambda what: status.update(f"Following {what}")
        )
    if as_json:
        sys.stdout.write(json.dumps(to_json(budget), indent=2) + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        show(budget, console)
        console.print(_jobs_precision(budget), highlight=False)
    return budget


def _request(options: PlanOptions) -> PlanRequest:
    """The images that are planned for: as asked for, or of the built-in set of the preset's name, or ImageNet."""
    built_in = BUILTIN.get(options.preset)
    in_memory = built_in is not None and options.images is None and options.image_kb is None
    if built_in is not None and in_memory:
        size = 3.0 * built_in.size**2
    else:
        size = 1000 * (_IMAGENET_KB if options.image_kb is None else options.image_kb)
    usual = _BUILT_IN.get(options.preset, IMAGENET_IMAGES), RECIPE_CLASSES.get(options.preset, 1000)
    return PlanRequest(
        gpus=options.gpus,
        precision=options.precision,
        images=usual[0] if options.images is None else options.images,
        classes=usual[1] if options.classes is None else options.classes,
        image_bytes=size,
        in_memory=in_memory,
        samples=options.samples,
    )


def _jobs_precision(budget: Budget) -> str:
    """A sentence on what the table of other work is computed in, as that is not the precision of the trainings."""
    names = " and ".join(job.name for job in budget.jobs)
    precisions = {job.precision for job in budget.jobs}
    rates = ", ".join(f"{name}, {budget.gpu.rate(name) / 1e12:g} TFLOP/s" for name in sorted(precisions))
    return f"{names} in {rates} at most: codes are made and, unless `alitok sample` is told otherwise, drawn in it."


def _recipe(options: PlanOptions, images: int) -> Recipe:
    if options.preset in FITTED:
        recipe = fitted(options.preset, image_size=options.image_size, images=images)
    elif options.preset in RECIPES:
        recipe = RECIPES[options.preset]
    else:
        raise AlitokError(f"There is no preset {options.preset!r}; choose one of: {', '.join((*FITTED, *RECIPES))}.")
    return altered(
        recipe,
        size=options.generator,
        config=options.config,
        overrides=options.overrides,
        perceptual=options.perceptual,
    )
