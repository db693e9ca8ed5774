"""`alitok train`: one stage of a run at a time, in one process or in many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from alitok.core.console import counted, print_table, reporter
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.system import stoppable
from alitok.data.split import Splits
from alitok.recipes.presets import Recipe, StageName
from alitok.run.images import open_images
from alitok.run.options import TrainOptions
from alitok.run.preflight import preflight
from alitok.run.resolve import resolve
from alitok.run.run import Run, settings
from alitok.run.rundir import RunDir, run_job
from alitok.run.steps import STEPS, begun, stale
from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig
from alitok.train.tokenizer import TokenizerPhase

# The steps of each stage; the pipeline is saved when both of its models are finished.
_STEPS = {
    "stage1": ("check", "features", "stage1"),
    "stage2": ("check", "features", "stage2"),
    "generator": ("check", "encode", "generator"),
}


def run_training(stage: StageName, options: TrainOptions) -> None:
    """Train or resume one stage; every rank calls this.

    Raises:
        AlitokError: the stage before is not finished, the run has other settings, or the preflight found a fault.
    """
    out = options.out
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        report = reporter(console)
        resolved = resolve(options, report)
        recipe, stores = resolved.recipe, resolved.stores
        if stores is None:
            splits = open_images(resolved.data, recipe.tokenizer.image_size, resolved.seed, console)
        elif stage == "generator":
            splits = stores.splits()
        else:
            raise AlitokError(f"{stage} is trained on images; --codes alone trains a generator.")
        _print_schedule(console, stage, recipe, splits, world)
        if options.dry_run:
            return
        if stores is None and stage != "stage1" and not _exist(out, STEPS["stage1"].required):
            raise AlitokError(f"{out} has no finished stage1; train it first: alitok train stage1.")
        values = {**settings(recipe, splits, resolved.seed), **(stores.settings() if stores is not None else {})}
        on_change = partial(_reject_if_begun, out, values)
        directory = RunDir(out, values, console=console, world=world, on_change=on_change)
        if stores is not None:
            world.on_rank0(partial(stores.place, out))
        run = Run(recipe, splits, world, directory, resolved.seed)
        for step in _STEPS[stage] if stores is None else (stage,):
            if options.preflight and step == stage:
                written = preflight(run, stage, images=stores is None)
                report(f"Preflight passed; see the images in {written}")
                return
            run.step(step)
        # A generator trained on codes may have a tokenizer of stage 1 alone.
        if all(_exist(out, STEPS[step].products) for step in STEPS["pipeline"].needs):
            run.step("pipeline")
        report(f"Done: {out / STEPS[stage].products[0]}")


def _exist(out: Path, products: Sequence[str]) -> bool:
    return all((out / product).exists() for product in products)


def _reject_if_begun(out: Path, values: dict[str, Any], changed: list[str]) -> list[str]:
    """Accept settings that nothing depends on yet; days of training are not redone for a changed option."""
    late = [path for path in changed if any(begun(out, step) for step in stale([path]))]
    if late:
        alone = "stage1" not in stale(late)
        hint = "choose another directory with --out" + ", or move that stage out as docs/faq.md describes" * alone
        job = run_job(out)
        raise job.conflict(late, job.read() or {}, values, hint)
    return []


def _print_schedule(console: Console, stage: StageName, recipe: Recipe, splits: Splits, world: World) -> None:
    training = recipe.training(stage)
    loop, engine, images = training.loop, recipe.engine, len(splits.train)
    microbatch = loop.batch_size // (world.size * engine.grad_accum_steps)
    processes = counted(world.size, "process", "processes")
    steps = counted(engine.grad_accum_steps, "microbatch", "microbatches")
    reporter(console)(
        f"{stage}: {counted(images, 'image')} of {counted(len(splits.train.classes), 'class', 'classes')} at "
        f"{recipe.tokenizer.image_size} px; batch {loop.batch_size} = {processes} x {steps} x {microbatch} "
        f"on {world.device}"
    )
    heads = ("phase", "steps", "images", "epochs", "learning rate", "warm-up", "minimizes")
    rows = schedule(training.phases, loop, images, frozen_codes=stage == "stage2")
    print_table(console, heads, rows, left=["minimizes"])


def schedule(
    phases: Sequence[Phase], loop: LoopConfig, images: int, *, frozen_codes: bool = False
) -> list[tuple[str, ...]]:
    """Rows of a table: each phase's name, `first + steps`, images and epochs, learning rates, warm-up and loss terms.

    One of an image's several stored crops is drawn in each epoch; frozen codes have no terms that shape them.
    """
    factor = loop.optimizer.rate_factor(loop.batch_size)
    rows: list[tuple[str, ...]] = []
    first = 0
    for phase in phases:
        seen = phase.steps * loop.batch_size
        rows.append(
            (
                phase.name,
                f"{first:,} + {phase.steps:,}",
                f"{seen:,}",
                f"{seen / images:,.1f}",
                f"{phase.learning_rate * factor:.3g} to {phase.final_learning_rate * factor:.3g}",
                f"{phase.warmup_steps:,}",
                ", ".join(_losses(phase, frozen_codes)),
            )
        )
        first += phase.steps
    return rows


def _losses(phase: Phase, frozen_codes: bool) -> tuple[str, ...]:
    if not isinstance(phase, TokenizerPhase):
        return ("cross-entropy",)
    weights = phase.losses
    shaping = () if frozen_codes else ("quantizer", "auxiliary")
    names = ("mse", "convnext", "lpips", "local", *shaping, "adversarial", "lecam")
    terms = [f"{getattr(weights, name):.3g} {name}" for name in names if getattr(weights, name)]
    return (*terms, f"discriminator on, {weights.discriminator:.3g}") if phase.discriminator else tuple(terms)
