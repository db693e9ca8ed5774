"""`alitok fit`: from images to finished models and a report, in one command that can be stopped and changed.

Writes, beside what `alitok.run.run` describes, `run.toml`, `samples/`, `metrics.json` and `report.html`.
"""

from __future__ import annotations

import io
import shlex
import time
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from alitok.core import images as pixels
from alitok.core.checkpoint import ModelCard
from alitok.core.console import Reporter, counted, duration, print_table, reporter
from alitok.core.distributed import join
from alitok.core.errors import AlitokError
from alitok.core.files import file_name, finite, read_json, write_bytes, write_json
from alitok.core.jobdir import JobDir
from alitok.core.system import require_libraries, stoppable
from alitok.data.codes import CodeStore
from alitok.recipes.presets import Recipe
from alitok.run.estimate import estimate
from alitok.run.images import open_images
from alitok.run.measure import measure
from alitok.run.options import FitOptions, RecipeOptions, TrainOptions
from alitok.run.report import print_metrics, write_report
from alitok.run.resolve import resolve
from alitok.run.run import Run, needs_features, settings
from alitok.run.rundir import RunDir, finished_reports, run_job
from alitok.run.steps import STEPS, TRAININGS, begun, remains, stale
from alitok.run.tasks import Trainings

_SHEET_COLUMNS, _SHEET_ROWS = 20, 50  # most samples of one class, and most classes, on the sheet
_ENLARGED = 64  # px; smaller samples are shown at twice their size


def run_fit(source: str, options: FitOptions, *, command: str) -> dict[str, Any]:
    """Run or resume everything; returns `metrics.json` with None for what is not finite; empty for a dry run.

    Settings that differ from those of the run in `options.out` are taken over: what depends on them is moved to
    `replaced/` and done again, everything else is reused.

    Raises:
        AlitokError: a package is missing, the data cannot be used, or the run in `out` has other data.
    """
    require_libraries("The report", "demo", "sklearn", "jinja2", "matplotlib")
    out = options.out or Path("runs", file_name(source))
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        report = reporter(console)
        shared = {field.name: getattr(options, field.name) for field in fields(RecipeOptions)}
        resolved = resolve(TrainOptions(out=out, data=source, **shared), report, fresh=options.fresh)
        recipe = resolved.recipe
        splits = open_images(resolved.data, recipe.tokenizer.image_size, resolved.seed, console)
        report(
            f"{len(splits.train):,} training and {len(splits.val):,} validation images of "
            f"{counted(len(splits.train.classes), 'class', 'classes')} at {recipe.tokenizer.image_size} px; "
            f"on {world.device}; to {out}/"
        )
        job, values = run_job(out), settings(recipe, splits, resolved.seed)
        if options.dry_run:
            done, redone = _standing(job, values, fresh=options.fresh)
            trainings = Trainings(recipe, splits, world, out, resolved.seed)
            _print_steps(console, recipe, done, estimate(trainings, done, redone))
            if "check" not in done:
                report(f"No image was read; to check them all: alitok data inspect {shlex.quote(resolved.data)}")
            return {}
        on_change = partial(_outdated, job, values, report)
        directory = RunDir(out, values, fresh=options.fresh, console=console, world=world, on_change=on_change)
        run = Run(recipe, splits, world, directory, resolved.seed)
        done = world.on_rank0(lambda: finished_reports(out))
        if "measure" not in done:
            _print_steps(console, recipe, done, estimate(run.trainings, done))
        for name in STEPS:
            if name not in ("sample", "measure"):
                run.step(name)
        for name, work in (("sample", partial(_sample, run)), ("measure", partial(_measure, run, source, command))):
            directory.step(name, STEPS[name].title, partial(world.on_rank0, work), STEPS[name].required)
        metrics = read_json(out / "metrics.json")
        print_metrics(console, metrics)
        report(f"Report: {out / 'report.html'}   metrics: {out / 'metrics.json'}")
    return metrics


def _standing(job: JobDir, values: Mapping[str, Any], *, fresh: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Reports of the finished steps that a start would reuse, and the steps to redo; AlitokError if it is rejected."""
    found = job.read()
    if fresh or found is None:
        return {}, list(STEPS)
    changed = job.conflicts(found, values)
    _reject_other_images(job, values, changed)
    redone = stale(changed)
    return finished_reports(job.root, [name for name in STEPS if name not in redone]), redone


def _outdated(job: JobDir, values: Mapping[str, Any], report: Reporter, changed: list[str]) -> list[str]:
    """The paths below the run's directory that no longer fit."""
    _reject_other_images(job, values, changed)
    redone = stale(changed)
    if redone:
        titles = ", ".join(STEPS[name].title for name in redone)
        report(f"Changed settings: {', '.join(changed)}. Steps to redo: {titles}.")
    return [path for name in redone for path in remains(name)]


def _reject_other_images(job: JobDir, values: Mapping[str, Any], changed: list[str]) -> None:
    """A disk that is not mounted must not cause days of training to be redone."""
    other = [name for name in ("data", "contents") if name in changed]
    if "data" in other or (other and any(begun(job.root, name) for name in TRAININGS)):
        raise job.conflict(other, job.read() or {}, values)


def _sample(run: Run) -> dict[str, Any]:
    each = run.recipe.samples_per_class
    labels = np.repeat(np.arange(len(run.splits.train.classes)), each)
    pipeline = run.load_pipeline()
    samples = run.trainings.sample(pipeline.generator, pipeline.tokenizer, labels)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, arr_0=samples.transpose(0, 2, 3, 1), labels=labels)
    write_bytes(run.root / "samples" / "samples.npz", buffer.getvalue())
    sheet = samples.reshape(-1, each, *samples.shape[1:])[:_SHEET_ROWS, :_SHEET_COLUMNS]
    sheet = pixels.grid(sheet.reshape(-1, *samples.shape[1:]), columns=sheet.shape[1])
    scale = 2 if samples.shape[-1] <= _ENLARGED else 1
    write_bytes(run.root / "samples" / "samples.png", pixels.png_bytes(sheet, scale))
    return {"samples": len(samples)}


def _measure(run: Run, data: str, command: str) -> dict[str, Any]:
    """Write the metrics, the report, and the model with its card."""
    began, path = time.monotonic(), run.root / "samples" / "samples.npz"
    try:
        with np.load(path) as archive:
            samples, labels = archive["arr_0"].transpose(0, 3, 1, 2), archive["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise AlitokError(f"{path} is damaged; delete it and run the same command again.") from None
    codes, device = CodeStore(run.root / "codes" / "train"), run.world.device
    measured = measure(run.load_tokenizer(), codes, run.splits, samples, labels, seed=run.seed, device=device)
    reports = finished_reports(run.root)
    reports.pop("measure", None)
    before = sum(report["seconds"] for report in reports.values())
    metrics = {"seconds": before + time.monotonic() - began, **measured.numbers}
    write_json(run.root / "metrics.json", finite(metrics))
    write_report(run.root, command, metrics, measured, reports, device)
    classes = counted(len(codes.classes), "class", "classes")
    card = ModelCard(
        title=f"alitok on {data}",
        description=f"Made by `{command}`.",
        data=f"{run.splits.train.name}: {len(run.splits.train):,} images of {classes}",
        steps={name: report["steps"] for name, report in reports.items() if "steps" in report},
        metrics=metrics,
    )
    run.load_pipeline().save_pretrained(run.root / "model", card)
    return {}


def _print_steps(
    console: Console, recipe: Recipe, done: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float]
) -> None:
    tokenizer = recipe.tokenizer
    reporter(console)(
        f"{tokenizer.image_size} px in patches of {tokenizer.patch_size}: {tokenizer.sequence_length} codes per image "
        f"from a codebook of {tokenizer.codebook_size:,}; batch size {recipe.stage1.loop.batch_size}"
    )
    rows = []
    for name, step in STEPS.items():
        if name == "features" and not needs_features(recipe):
            continue
        steps = sum(phase.steps for phase in getattr(recipe, name).phases) if name in TRAININGS else 0
        if name in done:
            took = f"done, {duration(done[name]['seconds'])}"
        else:
            took = f"about {duration(seconds[name])}" if name in seconds else ""
        rows.append((step.title, f"{steps:,}" if steps else "", took))
    left = sum(value for name, value in seconds.items() if name not in done)
    total = ("time left", "", f"about {duration(left)}")
    print_table(console, ("step", "optimizer\nsteps", "time"), rows, total=total)
