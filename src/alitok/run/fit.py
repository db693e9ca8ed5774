"""From a source of images to finished models and a report, in one command that can be stopped and changed.

Enters: which images, a recipe, a directory. Leaves, in the directory, what `alitok.run.run` describes, and:

    run.toml             data, seed and the resolved recipe
    samples/             samples.npz (all of them) and samples.png (a sheet)
    metrics.json         the numbers
    report.html          the numbers, curves and images in one file
    replaced/            what earlier settings had made, where settings were changed
"""

from __future__ import annotations

import io
import shlex
import time
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from alitok.core import images as pixels
from alitok.core.card import ModelCard
from alitok.core.config import read_toml, to_toml
from alitok.core.console import counted, duration, reporter
from alitok.core.distributed import join
from alitok.core.errors import AlitokError
from alitok.core.files import finite, read_json, write_bytes, write_json
from alitok.core.system import require_libraries, stoppable
from alitok.data.codes import CodeStore
from alitok.recipes.presets import Recipe
from alitok.run.estimate import estimate
from alitok.run.measure import measure
from alitok.run.originals import open_images_of
from alitok.run.resolve import Request, resolve
from alitok.run.run import Run, needs_features, settings
from alitok.run.steps import STEPS, TRAININGS, begun, outputs, remains, stale
from alitok.run.summary import write_summary
from alitok.run.tasks import Trainings
from alitok.run.workspace import Workspace, differences, finished_report, other_settings, require_place

_SHEET_COLUMNS, _SHEET_ROWS = 20, 50  # most samples of one class, and most classes, on the sheet
_ENLARGED = 64  # pixels; samples of at most that are shown larger


def run_fit(request: Request, *, command: str, dry_run: bool = False) -> dict[str, Any]:
    """Run or continue everything; returns the numbers that stand in `metrics.json`, None for one that is not finite.

    Settings that differ from those of the run in `request.out` are taken over: what depends on them is moved to
    `replaced/` and done again, all else is kept.

    Args:
        request: data, recipe, directory.
        command: what the user typed, for the report.
        dry_run: show the plan, change nothing, and return nothing.

    Raises:
        AlitokError: a package is missing, the data cannot be used, or the run in `out` is one of other data.
    """
    require_libraries("The report", "demo", "sklearn", "jinja2", "matplotlib")
    with join(request.device) as world, stoppable():
        console = Console(quiet=not world.main)
        say = reporter(console)
        resolved = resolve(request, say)
        if resolved.stores is not None:
            raise AlitokError(
                f"{request.out} holds a generator trained on codes alone; choose another directory with --out."
            )
        splits = open_images_of(resolved.data, resolved.recipe.tokenizer.image_size, resolved.seed, console)
        say(
            f"{len(splits.train):,} training and {len(splits.val):,} validation images of "
            f"{counted(len(splits.train.classes), 'class', 'classes')} at {resolved.recipe.tokenizer.image_size} px; "
            f"on {world.device}; to {request.out}/"
        )
        values = settings(resolved.recipe, splits, resolved.seed)
        if dry_run:
            done, again = _standing(request, values)
            trainings = Trainings(resolved.recipe, splits, world, request.out, resolved.seed)
            _show_plan(console, resolved.recipe, done, estimate(trainings, done, again))
            if "check" not in done:
                shown = shlex.quote(resolved.data)
                say(f"No image was read; whether all can be used tells: alitok data inspect {shown}")
            return {}
        workspace = Workspace(
            request.out,
            values,
            outputs=(*outputs(), "preflight"),
            fresh=request.fresh,
            console=console,
            world=world,
            on_change=_Changes(request.out, console),
        )
        run = Run(resolved.recipe, splits, world, workspace, resolved.seed)
        done = {name: report for name in STEPS if (report := workspace.finished(name, STEPS[name].wanted))}
        if "measure" not in done:
            seconds = estimate(run.trainings, done)
            _show_plan(console, resolved.recipe, done, seconds)
        for name in STEPS:
            if name not in ("sample", "measure"):
                run.step(name)
        end = _End(run, request.data or resolved.data, command)
        for name, work in (("sample", end.sample), ("measure", end.measure)):
            workspace.step(name, STEPS[name].title, work, STEPS[name].wanted)
    metrics = read_json(request.out / "metrics.json")
    _show(console, metrics, request.out)
    return metrics


def _standing(request: Request, values: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the finished steps reported that a start would keep, and the steps that it would begin anew.

    Raises:
        AlitokError: the start would be refused.
    """
    require_place(request.out)
    path = request.out / "run.toml"
    if request.fresh or not path.is_file():
        return {}, list(STEPS)
    changed = differences(read_toml(path), tomllib.loads(to_toml(values)))
    _refuse_other_images(request.out, changed)
    again = stale(changed)
    found = {name: finished_report(request.out, name, STEPS[name].wanted) for name in STEPS if name not in again}
    return {name: report for name, report in found.items() if report is not None}, again


def _refuse_other_images(root: Path, changed: list[str]) -> None:
    """A share that is not mounted must not start days of work anew."""
    other: list[str] = [name for name in ("data", "contents") if name in changed]
    if "data" in other or (other and any(begun(root, name) for name in TRAININGS)):
        raise other_settings(root, other)


@dataclass(frozen=True)
class _Changes:
    """What is set aside for changed settings."""

    root: Path
    console: Console

    def __call__(self, changed: list[str]) -> list[str]:
        _refuse_other_images(self.root, changed)
        again = stale(changed)
        if again:
            titles = ", ".join(STEPS[name].title for name in again)
            reporter(self.console)(f"Changed: {', '.join(changed)}. To be done again: {titles}.")
        return [path for name in again for path in remains(name)]


@dataclass(frozen=True)
class _End:
    """What follows the trainings, on the first process."""

    run: Run
    data: str
    command: str

    def sample(self) -> dict[str, Any]:
        return self.run.world.on_rank0(self._sample)

    def measure(self) -> dict[str, Any]:
        return self.run.world.on_rank0(self._measure)

    def _sample(self) -> dict[str, Any]:
        run, each = self.run, self.run.recipe.samples_per_class
        labels = np.repeat(np.arange(len(run.splits.train.classes)), each)
        pair = run.pipeline()
        drawn = run.trainings.draw(pair.generator, pair.tokenizer, labels)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, arr_0=drawn.transpose(0, 2, 3, 1), labels=labels)
        write_bytes(run.root / "samples" / "samples.npz", buffer.getvalue())
        sheet = drawn.reshape(-1, each, *drawn.shape[1:])[:_SHEET_ROWS, :_SHEET_COLUMNS]
        sheet = pixels.grid(sheet.reshape(-1, *drawn.shape[1:]), columns=sheet.shape[1])
        scale = 2 if drawn.shape[-1] <= _ENLARGED else 1
        write_bytes(run.root / "samples" / "samples.png", pixels.png_bytes(sheet, scale))
        return {"samples": len(drawn)}

    def _measure(self) -> dict[str, Any]:
        began, run = time.monotonic(), self.run
        drawn = self._samples()
        samples = drawn["arr_0"].transpose(0, 3, 1, 2)
        codes = CodeStore(run.root / "codes" / "train")
        measured = measure(
            run.tokenizer(), codes, run.splits, samples, drawn["labels"], seed=run.seed, device=run.world.device
        )
        steps = {name: report for name in STEPS if (report := run.workspace.done(name)) is not None}
        steps.pop("measure", None)
        before = sum(report["seconds"] for report in steps.values())
        metrics = {"seconds": before + time.monotonic() - began, **measured.numbers}
        write_json(run.root / "metrics.json", finite(metrics))
        write_summary(run.root, self.command, metrics, measured, steps, run.world.device)
        classes = counted(len(codes.classes), "class", "classes")
        card = ModelCard(
            title=f"alitok on {self.data}",
            description=f"Made by `{self.command}`.",
            data=f"{run.splits.train.name}: {len(run.splits.train):,} images of {classes}",
            steps={name: report["steps"] for name, report in steps.items() if "steps" in report},
            metrics=metrics,
        )
        run.pipeline().save_pretrained(run.root / "model", card)
        return {}

    def _samples(self) -> Mapping[str, np.ndarray]:
        path = self.run.root / "samples" / "samples.npz"
        try:
            with np.load(path) as archive:
                return {name: archive[name] for name in ("arr_0", "labels")}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            raise AlitokError(f"{path} is damaged; delete it and run the same command again.") from None


def _show_plan(
    console: Console, recipe: Recipe, done: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float]
) -> None:
    """The steps, what they do, and how long they took or will take."""
    tokenizer = recipe.tokenizer
    console.print(
        f"{tokenizer.image_size} px in patches of {tokenizer.patch_size}: {tokenizer.sequence_length} codes an image "
        f"out of {tokenizer.codebook_size:,}; batches of {recipe.stage1.loop.batch_size}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("step", "optimizer steps", "time"):
        table.add_column(head, justify="left" if head == "step" else "right")
    for name, step in STEPS.items():
        if name == "features" and not needs_features(recipe):
            continue
        steps = sum(phase.steps for phase in getattr(recipe, name).phases) if name in TRAININGS else 0
        if name in done:
            told = f"done, {duration(done[name]['seconds'])}"
        else:
            told = f"about {duration(seconds[name])}" if name in seconds else ""
        table.add_row(step.title, f"{steps:,}" if steps else "", told)
    left = sum(value for name, value in seconds.items() if name not in done)
    table.add_row("[bold]still to do[/bold]", "", f"[bold]about {duration(left)}[/bold]")
    console.print(table)


def _show(console: Console, metrics: dict[str, Any], out: Path) -> None:
    table = Table("number", "value", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name, value in metrics.items():
        table.add_row(name, "not finite" if value is None else f"{value:.4g}")
    console.print(table)
    reporter(console)(f"Report: {out / 'report.html'}   numbers: {out / 'metrics.json'}")
