"""One stage of a run at a time, in one process or in many.

Enters: which stage, data, recipe, and the directory that all stages of a run share. Leaves: in that directory what
`alitok.run.run` describes, and `run.toml`, from which later stages take data and recipe.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alitok.core.console import counted, reporter
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.system import stoppable
from alitok.data.split import Splits
from alitok.recipes.presets import Recipe, StageName
from alitok.run.originals import open_images_of
from alitok.run.preflight import preflight as check_before
from alitok.run.resolve import Request, Resolved, resolve
from alitok.run.run import Run, settings
from alitok.run.schedule import plan
from alitok.run.steps import STEPS, begun, stale
from alitok.run.workspace import Workspace, other_settings

# The steps behind each command; the pair is put together when the other half is there too.
_STEPS = {
    "stage1": ("check", "features", "stage1"),
    "stage2": ("check", "features", "stage2"),
    "generator": ("check", "encode", "generator"),
}
_NEEDS = {"stage2": "stage1", "generator": "stage1"}  # the stage before


def run_training(stage: StageName, request: Request, *, dry_run: bool = False, preflight: bool = False) -> None:
    """Train or continue one stage; every process of a run calls this.

    Args:
        stage: which one.
        request: data, recipe and the directory that all stages of the run share.
        dry_run: show the plan and stop.
        preflight: do the steps before the stage, check what it starts from, rehearse it on one batch, and stop.

    Raises:
        AlitokError: the stage before is not finished, the run in `out` was made with other settings, or the preflight
            found a fault.
    """
    out = request.out
    with join(request.device) as world, stoppable():
        console = Console(quiet=not world.main)
        resolved = resolve(request, reporter(console))
        recipe, stores = resolved.recipe, resolved.stores
        if stores is not None and stage != "generator":
            raise AlitokError(f"{stage} is trained on images; codes alone train a generator.")
        splits = stores.splits() if stores is not None else _images(resolved, console)
        _show_plan(console, stage, recipe, splits, world)
        if dry_run:
            return
        before = _NEEDS.get(stage) if stores is None else None
        if before is not None and not _finished(out, before):
            raise AlitokError(f"{out} holds no finished {before}; train it first: alitok train {before}.")
        workspace = Workspace(
            out,
            {**settings(recipe, splits, resolved.seed), **(stores.settings() if stores is not None else {})},
            outputs=(),
            fresh=False,
            console=console,
            world=world,
            on_change=partial(_refuse_what_is_begun, out),
        )
        if stores is not None:
            world.on_rank0(partial(stores.place, out))
        run = Run(recipe, splits, world, workspace, resolved.seed)
        for step in _STEPS[stage] if stores is None else (stage,):
            if preflight and step == stage:
                seen = check_before(run, stage, images=stores is None)
                console.print(f"Preflight passed; look at the images in {seen}", highlight=False)
                return
            run.step(step)
        # A generator trained on codes may have a tokenizer of stage 1 alone.
        if all((out / product).exists() for step in STEPS["pair"].needs for product in STEPS[step].products):
            run.step("pair")
        console.print(f"Done: {out / STEPS[stage].products[0]}", highlight=False)


def _images(resolved: Resolved, console: Console) -> Splits:
    return open_images_of(resolved.data, resolved.recipe.tokenizer.image_size, resolved.seed, console)


def _finished(out: Path, step: str) -> bool:
    return all((out / product).exists() for product in STEPS[step].wanted)


def _refuse_what_is_begun(out: Path, changed: list[str]) -> list[str]:
    """Take over settings that nothing depends on yet; a training of days is not thrown away for a changed option."""
    late = [path for path in changed if any(begun(out, step) for step in stale([path]))]
    if late:
        alone = "stage1" not in stale(late)
        raise other_settings(out, late, ", or move that stage out of it as docs/faq.md tells" if alone else "")
    return []


def _show_plan(console: Console, stage: StageName, recipe: Recipe, splits: Splits, world: World) -> None:
    training = recipe.training(stage)
    loop, engine, images = training.loop, recipe.engine, len(splits.train)
    share = loop.batch_size // (world.size * engine.grad_accum_steps)
    processes = counted(world.size, "process", "processes")
    microbatches = counted(engine.grad_accum_steps, "microbatch", "microbatches")
    console.print(
        f"{stage}: {counted(images, 'image')} of {counted(len(splits.train.classes), 'class', 'classes')} at "
        f"{recipe.tokenizer.image_size} px; batch {loop.batch_size} = {processes} x {microbatches} x {share} "
        f"on {world.device}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("phase", "steps", "images", "epochs", "learning rate", "warm-up", "minimises"):
        table.add_column(head, justify="left" if head in ("phase", "minimises") else "right")
    for row in plan(training.phases, loop, images, frozen_codes=stage == "stage2"):
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
