"""A plan for people, as tables of text.

Enters: a `Budget`. Leaves: what is printed; the same as JSON is the budget's own fields.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console

from alitok.apps.plan.budget import Budget, JobBudget, Scale, StageBudget
from alitok.apps.plan.footprint import Footprint
from alitok.core.console import counted, listed, print_table

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(value: float) -> str:
    """Bytes in the unit that suits them, in powers of 1,000."""
    power = 0
    while value >= 1000 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_UNITS[power]}"


def duration(hours: float) -> str:
    """Hours, or minutes where they are few."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _gflop(flops: int) -> str:
    value = flops / 1e9
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def show(budget: Budget, console: Console) -> None:
    """Print all tables."""
    request, assumed = budget.request, budget.assumed
    console.print(
        f"{request.gpus} x {budget.gpu.name}, {request.precision}; {counted(request.images, 'image')} of "
        f"{counted(request.classes, 'class', 'classes')}, {size(request.image_bytes)} each"
        f"{', in memory' if request.in_memory else ''}.\n"
        f"Assumed, not measured: {assumed.mfu:.0%} of {budget.gpu.rate(request.precision) / 1e12:,.0f} TFLOP/s, "
        f"{assumed.launch_seconds * 1e6:g} µs from kernel to kernel, {assumed.link_share:.0%} of links, "
        f"{assumed.wait_seconds * 1e6:g} µs a message.",
        highlight=False,
    )
    for stage in budget.stages:
        _show_stage(stage, budget, console)
    console.print()
    _show_jobs(budget.jobs, console)
    console.print(
        f"\nAll of it, one after the other: {duration(budget.hours)}, {budget.hours * request.gpus:,.0f} GPU-hours.",
        highlight=False,
    )


def _show_stage(stage: StageBudget, budget: Budget, console: Console) -> None:
    gpus = budget.request.gpus
    console.rule(f"{stage.name}: {stage.trained:,} trained parameters, batch {stage.batch_size:,}", align="left")
    _show_phases(stage, gpus, console)
    _show_memory(stage, budget, console)
    if stage.choice is None:
        console.print(
            "None of these fits, however small the microbatch; the hours are those of DDP as if it did.",
            highlight=False,
        )
    else:
        console.print(f"Fastest that fits: --set {stage.choice.options}", highlight=False)
    console.print(
        f"Reads {size(stage.read_bytes)} at up to {size(stage.read_rate)}/s over all GPUs"
        + (f", {stage.cores:.1f} cores a GPU to decode" if stage.cores else "")
        + f"; a checkpoint takes {size(stage.checkpoint_bytes)}, {stage.kept} are kept.",
        highlight=False,
    )
    _show_scaling(stage, console)
    console.print(_where_it_ends(stage), highlight=False)


def _show_phases(stage: StageBudget, gpus: int, console: Console) -> None:
    heads = ("phase", "steps", "GFLOP\na image", "of its\nlosses", "ms a\nstep", "bound by", "hours", "GPU-hours")
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
    parts = ("weights", "gradi-\nents", "opti-\nmizer,\naverage", "activa-\ntions")
    heads = ("memory of a GPU", *parts, "together", "pic-\ntures", "at\nmost")
    room = budget.request.memory_share * budget.gpu.memory
    print_table(console, heads, (_memory_row(found, room) for found in stage.footprints))


def _memory_row(found: Footprint, room: float) -> tuple[str, ...]:
    together = size(found.total) + ("" if found.total <= room else " (too much)")
    parts = (found.weights, found.gradients, found.optimizer, found.activations)
    return (found.layout.name, *map(size, parts), together, f"{found.images:,}", f"{found.largest or 0:,}")


def _show_scaling(stage: StageBudget, console: Console) -> None:
    """A row for each number of GPUs that the training can use, and a sentence for the others."""
    costs = ("ms a\nstep", "arith-\nmetic", "launches", "sent", "not\nhidden")
    heads = ("GPUs", "layout", "images\na GPU", *costs, "images/s", "effi-\nciency")
    print_table(console, heads, filter(None, map(_scale_row, stage.scaling)), left=["layout"])
    without: dict[str, list[str]] = {}
    for scale in stage.scaling:
        if scale.why_not is not None:
            without.setdefault(scale.why_not, []).append(f"{scale.gpus:,}")
    for why_not, gpus in without.items():
        console.print(f"On {listed(gpus)} {'GPU' if gpus == ['1'] else 'GPUs'}: {why_not}.", highlight=False)


def _scale_row(scale: Scale) -> tuple[str, ...] | None:
    if scale.time is None or scale.choice is None:
        return None
    time, choice = scale.time, scale.choice
    seconds = (time.seconds, time.arithmetic, time.launches, time.sent, time.exposed)
    share = f"{choice.microbatches} x {choice.images}"
    milliseconds = (f"{1e3 * value:,.1f}" for value in seconds)
    return (
        f"{scale.gpus:,}",
        choice.layout.name,
        share,
        *milliseconds,
        f"{scale.images_per_second:,.0f}",
        f"{time.efficiency:.0%}",
    )


def _where_it_ends(stage: StageBudget) -> str:
    """A sentence on where more GPUs stop helping, and why."""
    last = stage.ends
    if last is None:
        return "At no number of GPUs is half of a step arithmetic."
    behind = [scale for scale in stage.scaling if scale.gpus > last.gpus]
    if not behind:
        return f"Up to {counted(last.gpus, 'GPU')} more than half of each step is arithmetic."
    after = behind[0]
    if after.time is None:
        return f"Scales to {counted(last.gpus, 'GPU')}; at {after.gpus:,}: {after.why_not}."
    assert after.choice is not None
    images = counted(after.choice.images, "image")
    return (
        f"Scales to {counted(last.gpus, 'GPU')}; at {after.gpus:,} a GPU has {images} at a time, and only "
        f"{after.time.efficiency:.0%} of a step is arithmetic; most of it goes to {after.time.bound}."
    )


def _show_jobs(jobs: tuple[JobBudget, ...], console: Console) -> None:
    heads = ("other work", "GFLOP\na image", "hours", "writes", "reads", "memory\nof a GPU")
    rows = (
        (
            job.name,
            _gflop(job.flops),
            duration(job.hours),
            size(job.written_bytes),
            f"{size(job.read_rate)}/s" if job.read_rate else "",
            size(job.memory) if job.memory else "",
        )
        for job in jobs
    )
    print_table(console, heads, rows)


def to_json(budget: Budget) -> dict[str, Any]:
    """All of it, in bytes, seconds, hours and FLOPs."""
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
