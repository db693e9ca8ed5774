"""`alitok fit`: from images to finished models and a report, in one command that can be stopped and changed.

Writes what `alitok.run.run` describes, and:

    run.toml             data, seed and the resolved recipe
    samples/             samples.npz (all of them) and samples.png (a sheet)
    metrics.json         the metrics
    report.html          metrics, curves and images in one file
    replaced/            what earlier settings had made, where settings were changed
"""

from __future__ import annotations

import io
import shlex
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from alitok.core import images as pixels
from alitok.core.card import ModelCard
from alitok.core.console import counted, duration, print_table, reporter
from alitok.core.distributed import join
from alitok.core.errors import AlitokError
from alitok.core.files import file_name, finite, read_json, write_bytes, write_json
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
from alitok.run.rundir import RunDir, finished_report, run_job
from alitok.run.steps import STEPS, TRAININGS, begun, remains, stale
from alitok.run.tasks import Trainings

_SHEET_COLUMNS, _SHEET_ROWS = 20, 50  # most samples of one class, and most classes, on the sheet
_ENLARGED = 64  # px; smaller samples are shown at twice their size


def run_fit(source: str, options: FitOptions, *, command: str) -> dict[str, Any]:
    """Run or resume everything; returns the contents of `metrics.json`, with None for what is not finite.

    Settings that differ from those of the run in `options.out` are taken over: what depends on them is moved to
    `replaced/` and done again, everything else is reused.

    Args:
        source: the images.
        options: recipe and directory; with `dry_run` nothing is changed and the result is empty.
        command: as it was typed, for the report.

    Raises:
        AlitokError: a package is missing, the data cannot be used, or the run in `out` has other data.
    """
    require_libraries("The report", "demo", "sklearn", "jinja2", "matplotlib")
    out = options.out or Path("runs", file_name(source))
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        report = reporter(console)
        resolved = resolve(_training(source, out, options), report, fresh=options.fresh)
        recipe = resolved.recipe
        splits = open_images(resolved.data, recipe.tokenizer.image_size, resolved.seed, console)
        report(
            f"{len(splits.train):,} training and {len(splits.val):,} validation images of "
            f"{counted(len(splits.train.classes), 'class', 'classes')} at {recipe.tokenizer.image_size} px; "
            f"on {world.device}; to {out}/"
        )
        changes = _Changes(out, settings(recipe, splits, resolved.seed), console)
        if options.dry_run:
            done, redone = changes.standing(options.fresh)
            trainings = Trainings(recipe, splits, world, out, resolved.seed)
            _print_steps(console, recipe, done, estimate(trainings, done, redone))
            if "check" not in done:
                report(f"No image was read; to check them all: alitok data inspect {shlex.quote(resolved.data)}")
            return {}
        directory = RunDir(
            out, changes.settings, fresh=options.fresh, console=console, world=world, on_change=changes.outdated
        )
        run = Run(recipe, splits, world, directory, resolved.seed)
        done = {name: found for name in STEPS if (found := directory.finished(name, STEPS[name].required))}
        if "measure" not in done:
            _print_steps(console, recipe, done, estimate(run.trainings, done))
        for name in STEPS:
            if name not in ("sample", "measure"):
                run.step(name)
        end = _End(run, source, command)
        for name, work in (("sample", end.sample), ("measure", end.measure)):
            directory.step(name, STEPS[name].title, partial(world.on_rank0, work), STEPS[name].required)
        metrics = read_json(out / "metrics.json")
        print_metrics(console, metrics)
        report(f"Report: {out / 'report.html'}   metrics: {out / 'metrics.json'}")
    return metrics


def _training(source: str, out: Path, options: FitOptions) -> TrainOptions:
    shared = {field.name: getattr(options, field.name) for field in fields(RecipeOptions)}
    return TrainOptions(out=out, data=source, **shared)


@dataclass(frozen=True)
class _Changes:
    """What changed settings do to the run in `root`."""

    root: Path
    settings: dict[str, Any]
    console: Console

    def standing(self, fresh: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Reports of the finished steps that a start would reuse, and the steps that it would redo.

        Raises:
            AlitokError: the start would be rejected.
        """
        job = run_job(self.root)
        found = job.read()
        if fresh or found is None:
            return {}, list(STEPS)
        changed = job.conflicts(found, self.settings)
        self._reject_other_images(changed)
        redone = stale(changed)
        reports = {name: finished_report(self.root, name, STEPS[name].required) for name in STEPS if name not in redone}
        return {name: report for name, report in reports.items() if report is not None}, redone

    def outdated(self, changed: list[str]) -> list[str]:
        """The paths below `root` that no longer fit."""
        self._reject_other_images(changed)
        redone = stale(changed)
        if redone:
            titles = ", ".join(STEPS[name].title for name in redone)
            reporter(self.console)(f"Changed settings: {', '.join(changed)}. Steps to redo: {titles}.")
        return [path for name in redone for path in remains(name)]

    def _reject_other_images(self, changed: list[str]) -> None:
        """A disk that is not mounted must not cause days of training to be redone."""
        other = [name for name in ("data", "contents") if name in changed]
        if "data" in other or (other and any(begun(self.root, name) for name in TRAININGS)):
            job = run_job(self.root)
            raise job.conflict(other, job.read() or {}, self.settings)


@dataclass(frozen=True)
class _End:
    """What follows the trainings, on rank 0."""

    run: Run
    data: str
    command: str

    def sample(self) -> dict[str, Any]:
        run, each = self.run, self.run.recipe.samples_per_class
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

    def measure(self) -> dict[str, Any]:
        began, run = time.monotonic(), self.run
        archive = self._samples()
        samples = archive["arr_0"].transpose(0, 3, 1, 2)
        codes = CodeStore(run.root / "codes" / "train")
        measured = measure(
            run.load_tokenizer(), codes, run.splits, samples, archive["labels"], seed=run.seed, device=run.world.device
        )
        reports = {name: found for name in STEPS if (found := finished_report(run.root, name)) is not None}
        reports.pop("measure", None)
        before = sum(report["seconds"] for report in reports.values())
        metrics = {"seconds": before + time.monotonic() - began, **measured.numbers}
        write_json(run.root / "metrics.json", finite(metrics))
        write_report(run.root, self.command, metrics, measured, reports, run.world.device)
        classes = counted(len(codes.classes), "class", "classes")
        card = ModelCard(
            title=f"alitok on {self.data}",
            description=f"Made by `{self.command}`.",
            data=f"{run.splits.train.name}: {len(run.splits.train):,} images of {classes}",
            steps={name: report["steps"] for name, report in reports.items() if "steps" in report},
            metrics=metrics,
        )
        run.load_pipeline().save_pretrained(run.root / "model", card)
        return {}

    def _samples(self) -> Mapping[str, np.ndarray]:
        path = self.run.root / "samples" / "samples.npz"
        try:
            with np.load(path) as archive:
                return {name: archive[name] for name in ("arr_0", "labels")}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            raise AlitokError(f"{path} is damaged; delete it and run the same command again.") from None


def _print_steps(
    console: Console, recipe: Recipe, done: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float]
) -> None:
    """The steps, their optimizer steps, and how long they took or will take."""
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
