"""`alitok plan`: plans a training and prints it as tables or as one JSON object."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from rich.console import Console

from alitok.apps.plan.budget import JOBS_PRECISION, Budget, PlanRequest, Scale, StageBudget, make_budget
from alitok.apps.plan.hardware import gpu_named
from alitok.apps.plan.options import PlanOptions
from alitok.apps.plan.stage_cost import Footprint
from alitok.apps.plan.traffic import Assumptions
from alitok.core.console import counted, listed, print_table
from alitok.core.errors import AlitokError
from alitok.data.sources.builtin import BUILTIN
from alitok.recipes.fitted import FITTED, fitted
from alitok.recipes.presets import IMAGENET_IMAGES, RECIPE_CLASSES, RECIPES, STAGES, Recipe
from alitok.run.resolve import altered

_BUILT_IN = {"digits": 1438, "photos": 1792}  # training images
_IMAGENET_KB = 110.0  # of an image
_WIDTH = 150  # of tables outside a terminal
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def run_plan(options: PlanOptions) -> None:
    """Plan and print; AlitokError for an unknown name, a number out of range, or a batch that GPUs cannot share."""
    gpu = gpu_named(options.gpu)
    if options.network is not None:
        if options.network <= 0:
            raise AlitokError(f"--network must be above 0 Gbit/s, not {options.network:g}.")
        gpu = dataclasses.replace(gpu, network=options.network * 1e9 / 8)
    request = _request(options)
    recipe = _recipe(options, request.images)
    stages = STAGES if options.stage is None else (options.stage,)
    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("Tracing") as status:
        budget = make_budget(
            recipe, gpu, request, Assumptions(mfu=options.mfu), stages, lambda what: status.update(f"Tracing {what}")
        )
    if options.json:
        sys.stdout.write(json.dumps(to_json(budget), indent=2) + "\n")
    else:
        _show(budget, Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False))


def _request(options: PlanOptions) -> PlanRequest:
    """The training images: as requested, else the built-in set of the preset's name, else ImageNet."""
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


def _recipe(options: PlanOptions, images: int) -> Recipe:
    if options.preset in FITTED:
        recipe = fitted(options.preset, image_size=options.image_size, images=images)
    elif options.preset in RECIPES:
        recipe = RECIPES[options.preset]
    else:
        raise AlitokError(f"Unknown preset {options.preset!r}; choose one of: {', '.join((*FITTED, *RECIPES))}.")
    return altered(
        recipe,
        size=options.generator,
        config=options.config,
        overrides=options.overrides,
        perceptual=options.perceptual,
    )


def size(value: float) -> str:
    """Bytes in a suitable unit, in powers of 1,000."""
    power = 0
    while value >= 1000 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_UNITS[power]}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _gflop(flops: int) -> str:
    value = flops / 1e9
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _show(budget: Budget, console: Console) -> None:
    request, assumed = budget.request, budget.assumed
    console.print(
        f"{request.gpus} x {budget.gpu.name}, {request.precision}; {counted(request.images, 'image')} of "
        f"{counted(request.classes, 'class', 'classes')}, {size(request.image_bytes)} each"
        f"{', in memory' if request.in_memory else ''}.\n"
        f"Assumed, not measured: {assumed.mfu:.0%} of {budget.gpu.rate(request.precision) / 1e12:,.0f} TFLOP/s, "
        f"{assumed.launch_seconds * 1e6:g} µs from kernel to kernel, {assumed.link_fraction:.0%} of links, "
        f"{assumed.wait_seconds * 1e6:g} µs a message.",
    )
    for stage in budget.stages:
        _show_stage(stage, budget, console)
    console.print()
    _show_jobs(budget, console)
    console.print(f"\nEverything in sequence: {_hours(budget.hours)}, {budget.hours * request.gpus:,.0f} GPU-hours.")


def _show_stage(stage: StageBudget, budget: Budget, console: Console) -> None:
    console.rule(f"{stage.name}: {stage.trained:,} trained parameters, batch {stage.batch_size:,}", align="left")
    _show_phases(stage, budget.request.gpus, console)
    _show_memory(stage, budget, console)
    if stage.choice is None:
        console.print("No layout fits, however small the microbatch; the hours are those of DDP as if it did.")
    else:
        console.print(f"Fastest that fits: --set {stage.choice.options}")
    console.print(
        f"Reads {size(stage.read_bytes)} at up to {size(stage.read_rate)}/s over all GPUs"
        + (f", {stage.cores:.1f} CPU cores per GPU to decode" if stage.cores else "")
        + f"; a checkpoint takes {size(stage.checkpoint_bytes)}, {stage.checkpoints} are kept.",
    )
    _show_scaling(stage, console)
    console.print(_where_it_ends(stage))


def _show_phases(stage: StageBudget, gpus: int, console: Console) -> None:
    heads = ("phase", "steps", "GFLOP\nper image", "of its\nlosses", "ms per\nstep", "bound by", "hours", "GPU-hours")
    rows = (
        (
            phase.name,
            f"{phase.steps:,}",
            _gflop(phase.flops),
            _gflop(phase.loss_flops),
            f"{1e3 * phase.time.seconds:,.1f}",
            phase.time.bound,
            f"{phase.hours:,.1f}",
            f"{gpus * phase.hours:,.0f}",
        )
        for phase in stage.phases
    )
    print_table(console, heads, rows)


def _show_memory(stage: StageBudget, budget: Budget, console: Console) -> None:
    parts = ("weights", "gradi-\nents", "opti-\nmizer,\nEMA", "activa-\ntions")
    heads = ("memory per GPU", *parts, "total", "images", "at\nmost")
    room = budget.request.memory_fraction * budget.gpu.memory
    print_table(console, heads, (_memory_row(found, room) for found in stage.footprints))


def _memory_row(found: Footprint, room: float) -> tuple[str, ...]:
    total = size(found.total) + ("" if found.total <= room else " (too much)")
    parts = (found.weights, found.gradients, found.optimizer, found.activations)
    return (found.layout.name, *map(size, parts), total, f"{found.images:,}", f"{found.largest:,}")


def _show_scaling(stage: StageBudget, console: Console) -> None:
    costs = ("ms per\nstep", "arith-\nmetic", "launches", "sent", "not\nhidden")
    heads = ("GPUs", "layout", "images\nper GPU", *costs, "images/s", "effi-\nciency")
    print_table(console, heads, filter(None, map(_scale_row, stage.scaling)), left=["layout"])
    without: dict[str, list[str]] = {}
    for scale in stage.scaling:
        if scale.why_not is not None:
            without.setdefault(scale.why_not, []).append(f"{scale.gpus:,}")
    for why_not, gpus in without.items():
        console.print(f"On {listed(gpus)} {'GPU' if gpus == ['1'] else 'GPUs'}: {why_not}.")


def _scale_row(scale: Scale) -> tuple[str, ...] | None:
    if scale.time is None or scale.choice is None:
        return None
    time, choice = scale.time, scale.choice
    seconds = (time.seconds, time.arithmetic, time.launches, time.sent, time.exposed)
    milliseconds = (f"{1e3 * value:,.1f}" for value in seconds)
    return (
        f"{scale.gpus:,}",
        choice.layout.name,
        f"{choice.microbatches} x {choice.images}",
        *milliseconds,
        f"{scale.images_per_second:,.0f}",
        f"{time.efficiency:.0%}",
    )


def _where_it_ends(stage: StageBudget) -> str:
    last = stage.ends
    if last is None:
        return "Less than half of each step is arithmetic at any number of GPUs."
    larger = [scale for scale in stage.scaling if scale.gpus > last.gpus]
    if not larger:
        return f"Up to {counted(last.gpus, 'GPU')}, more than half of each step is arithmetic."
    after = larger[0]
    if after.time is None:
        return f"Scales to {counted(last.gpus, 'GPU')}; at {after.gpus:,}: {after.why_not}."
    assert after.choice is not None
    images = counted(after.choice.images, "image")
    return (
        f"Scales to {counted(last.gpus, 'GPU')}; at {after.gpus:,}, with {images} per GPU at a time, only "
        f"{after.time.efficiency:.0%} of a step is arithmetic; it is bound by {after.time.bound}."
    )


def _show_jobs(budget: Budget, console: Console) -> None:
    heads = ("other work", "GFLOP\nper image", "hours", "writes", "reads", "memory\nper GPU")
    rows = (
        (
            job.name,
            _gflop(job.flops),
            _hours(job.hours),
            size(job.written_bytes),
            f"{size(job.read_rate)}/s" if job.read_rate else "",
            size(job.memory) if job.memory else "",
        )
        for job in budget.jobs
    )
    print_table(console, heads, rows)
    names = " and ".join(job.name for job in budget.jobs)
    rate = f"{budget.gpu.rate(JOBS_PRECISION) / 1e12:g} TFLOP/s"
    console.print(f"{names} in {JOBS_PRECISION}, {rate} at most, whatever the training's precision.")


def to_json(budget: Budget) -> dict[str, Any]:
    """The whole budget, in bytes, seconds, hours and FLOPs."""
    plain = dataclasses.asdict(budget)
    for stage, own in zip(plain["stages"], budget.stages, strict=True):
        stage["hours"] = own.hours
        stage["gpu_hours"] = own.hours * budget.request.gpus
        stage["ends_at_gpus"] = None if own.ends is None else own.ends.gpus
        stage["where_it_ends"] = _where_it_ends(own)
        rows = (*stage["phases"], *stage["scaling"])
        times = (*(phase.time for phase in own.phases), *(scale.time for scale in own.scaling))
        for row, time in zip(rows, times, strict=True):
            if time is not None:
                row["time"] |= {"seconds": time.seconds, "efficiency": time.efficiency, "bound": time.bound}
        for row, memory in zip(stage["footprints"], own.footprints, strict=True):
            row |= {"total": memory.total}
    return {**plain, "hours": budget.hours, "gpu_hours": budget.hours * budget.request.gpus}
