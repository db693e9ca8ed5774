"""One stage of a run at a time, in one process or in many.

Enters: which stage, data, recipe, and the directory that all stages of a run share. Leaves: in that directory what
`alitok.workflow.run` describes, and `run.toml`, from which later stages take data and recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from alitok.core.config import from_dict, merge, override, read_toml, to_dict
from alitok.core.device import DeviceName
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.data.source import Splits, open_splits
from alitok.presets import RECIPES, Recipe, recipe_for, with_generator
from alitok.train.generator import GeneratorTraining
from alitok.train.tokenizer import TokenizerPhase, TokenizerTraining
from alitok.workflow.plan import plan
from alitok.workflow.run import PRODUCTS, Run, settings
from alitok.workflow.workspace import Workspace

StageName = Literal["stage1", "stage2", "generator"]
PerceptualName = Literal["recipe", "none", "local", "convnext", "lpips"]

# The steps behind each command, and the parts of the recipe that each step's results depend on.
_STEPS = {
    "stage1": ("check", "features", "stage1"),
    "stage2": ("stage2",),
    "generator": ("encode", "generator"),
}
_DEPENDS = {
    "features": ("recipe.features",),
    "stage1": ("recipe.tokenizer", "recipe.features", "recipe.stage1"),
    "stage2": ("recipe.stage2",),
    "encode": ("recipe.crops",),
    "generator": ("recipe.generator", "recipe.generator_size"),
}
_NEEDS = {"stage2": "stage1", "generator": "stage2"}  # the stage before


@dataclass(frozen=True)
class TrainOptions:
    """What the user asked for; see `alitok train --help`. None takes what the run in `out` has."""

    stage: StageName
    out: Path
    data: str | None = None
    preset: str | None = None
    size: str | None = None
    perceptual: PerceptualName = "recipe"
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    device: DeviceName = "auto"
    seed: int | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Resolved:
    """Options with everything filled in."""

    recipe: Recipe
    data: str
    seed: int


def resolve(options: TrainOptions) -> Resolved:
    """Data, seed and recipe: the options, over what the run in `out` holds, over the preset.

    Raises:
        AlitokError: no data is named anywhere, an unknown preset or key, or a value that does not fit.
    """
    stored: dict[str, Any] = {}
    if (options.out / "run.toml").is_file():
        stored = read_toml(options.out / "run.toml")
    data = options.data or stored.get("data")
    if data is None:
        raise AlitokError(f"{options.out} holds no run yet; name the pictures with --data.")
    if options.preset is not None and options.preset not in RECIPES:
        raise AlitokError(f"There is no preset {options.preset!r}; choose one of: {', '.join(RECIPES)}.")
    if options.preset is not None:
        recipe = RECIPES[options.preset]
    elif "recipe" in stored:
        recipe = from_dict(Recipe, stored["recipe"], str(options.out / "run.toml"))
    else:
        recipe = recipe_for(data)
    if options.size is not None:
        recipe = with_generator(recipe, options.size)
    keys = to_dict(recipe)
    if options.config is not None:
        keys = to_dict(from_dict(Recipe, merge(keys, read_toml(options.config)), str(options.config)))
    recipe = from_dict(Recipe, override(keys, options.overrides), "--set")
    if options.perceptual != "recipe":
        recipe = replace(
            recipe,
            stage1=_with_perceptual(recipe.stage1, options.perceptual),
            stage2=_with_perceptual(recipe.stage2, options.perceptual),
        )
    seed = options.seed if options.seed is not None else stored.get("seed", 0)
    if not 0 <= seed < 2**63:
        raise AlitokError(f"The seed must be within 0 and 2^63, not {seed}.")
    return Resolved(recipe, data, seed)


def _with_perceptual(
    training: TokenizerTraining, name: Literal["none", "local", "convnext", "lpips"]
) -> TokenizerTraining:
    def changed(phase: TokenizerPhase) -> TokenizerPhase:
        return replace(phase, losses=phase.losses.with_perceptual(name))

    return replace(training, phases=tuple(changed(phase) for phase in training.phases))


def run_training(options: TrainOptions) -> None:
    """Train or continue one stage; every process of a run calls this.

    Raises:
        AlitokError: the stage before is not finished, or the run in `out` was made with other settings.
    """
    resolved = resolve(options)
    with join(options.device) as world:
        console = Console(quiet=not world.main)
        recipe = resolved.recipe
        splits = open_splits(resolved.data, recipe.tokenizer.image_size, resolved.seed)
        _show_plan(console, options.stage, recipe, splits, world)
        if options.dry_run:
            return
        before = _NEEDS.get(options.stage)
        if before is not None and not all((options.out / product).exists() for product in PRODUCTS[before]):
            raise AlitokError(f"{options.out} holds no finished {before}; train it first: alitok train {before}.")
        workspace = Workspace(
            options.out,
            settings(recipe, splits, resolved.seed),
            outputs=(),
            fresh=False,
            console=console,
            world=world,
            protected=_protected(options.out),
        )
        run = Run(recipe, splits, world, workspace, resolved.seed)
        for step in _STEPS[options.stage]:
            run.step(step)
        console.print(f"Done: {options.out / PRODUCTS[options.stage][0]}", highlight=False)


def _protected(out: Path) -> tuple[str, ...]:
    """The settings that decided what is there already."""
    begun = [step for step in _DEPENDS if any((out / name).exists() for name in (step, *PRODUCTS[step]))]
    return ("data", "contents", "seed", *(path for step in begun for path in _DEPENDS[step]))


def _show_plan(console: Console, stage: StageName, recipe: Recipe, splits: Splits, world: World) -> None:
    trainings: dict[StageName, TokenizerTraining | GeneratorTraining] = {
        "stage1": recipe.stage1,
        "stage2": recipe.stage2,
        "generator": recipe.generator,
    }
    training = trainings[stage]
    loop, engine, pictures = training.loop, recipe.engine, len(splits.train)
    share = loop.batch_size // (world.size * engine.accumulate)
    console.print(
        f"{stage}: {pictures:,} pictures of {len(splits.train.classes)} classes at {recipe.tokenizer.image_size} px; "
        f"batch {loop.batch_size} = {world.size} processes x {engine.accumulate} microbatches x {share} "
        f"on {world.device}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("phase", "steps", "images", "epochs", "learning rate", "warm-up", "minimises"):
        table.add_column(head, justify="left" if head in ("phase", "minimises") else "right")
    for row in plan(training.phases, loop, pictures, frozen_codes=stage == "stage2"):
        first, last = row.rates
        table.add_row(
            row.name,
            f"{row.first_step:,} + {row.steps:,}",
            f"{row.images:,}",
            f"{row.epochs:,.1f}",
            f"{first:.3g} to {last:.3g}",
            f"{row.warmup_steps:,}",
            ", ".join(row.losses),
        )
    console.print(table)
