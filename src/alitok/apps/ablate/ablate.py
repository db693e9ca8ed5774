"""Runs an ablation: its cells in worker processes, and the report of the finished ones, rewritten after each.

`cells/NAME/` holds one run each, with its log beside it, and `cells/features/` the feature network of all cells.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from alitok import __version__
from alitok.apps.ablate.cell import SPLIT_SEED, Cell, Shared, read_finished, read_preview, train_features
from alitok.apps.ablate.numbers import Ablation, CellNumbers
from alitok.apps.ablate.options import AblateOptions
from alitok.apps.ablate.report import ORIGINALS, print_report, write_report
from alitok.apps.ablate.workers import Job, run_jobs
from alitok.core.config import from_dict, override, to_dict
from alitok.core.console import duration, reporter
from alitok.core.distributed import join, launched
from alitok.core.errors import AlitokError
from alitok.core.files import file_name
from alitok.core.jobdir import JobDir
from alitok.core.system import cores, require_libraries, stoppable
from alitok.data.codes import MAX_CODEBOOK
from alitok.data.split import Splits
from alitok.data.survey import preview
from alitok.recipes.ablation import ABLATION_PRESETS, AblationPreset
from alitok.recipes.arms import ARMS, CURVE_ARMS
from alitok.report.model import Report
from alitok.run.classifier import open_classifier
from alitok.run.images import open_images, verify_images

_OUTPUTS = ("cells", "ablation.json", "table.md", "plot.svg", "report.html")


def run_ablation(options: AblateOptions, *, command: str) -> Ablation:
    """Run or resume an ablation and write its report.

    AlitokError where options, data or directory cannot be used, a library is missing, or cells failed; the others are
    finished and in the report then.
    """
    require_libraries("An ablation", "eval", "scipy", "torchmetrics", "jinja2", "matplotlib")
    if launched():
        raise AlitokError("alitok ablate starts its own processes; start it without torchrun.")
    preset = _preset(options)
    out = options.out or Path("ablations", file_name(options.data))
    with join(options.device) as world, stoppable():
        console = Console()
        log = reporter(console)
        image_size = preset.image_size(preview(options.data, log=log).image_size)
        splits = open_images(options.data, image_size, SPLIT_SEED, console)
        if len(np.unique(splits.train.labels)) < 2:
            raise AlitokError(f"{splits.name} has one class, but the classifier of the samples needs at least two.")
        cells = cells_of(options, preset)
        jobs = _jobs(cells)
        parallel = options.parallel or (torch.cuda.device_count() if world.device.type == "cuda" else cores())
        job = JobDir(out, "ablation.toml", "ablate", outputs=_OUTPUTS)
        settings = {
            "data": splits.name,
            "contents": splits.contents,
            "image_size": image_size,
            "preset": options.preset,
            "sizes": to_dict(preset),
        }
        log(
            f"{len(cells)} cells of {len(splits.train):,} training images at {image_size} px, "
            f"{parallel} at a time; to {out}/"
        )
        found = job.read()
        if found is not None and (changed := job.conflicts(found, settings)):
            raise job.conflict(changed, found, settings, hint="choose another directory with --out")
        job.begin(settings, world)
        with job.lock(world):
            broken = verify_images(splits, "all", world, console)
            usable = splits.without({key for key, _ in broken})
            open_classifier(usable, world, console)  # once, before the cells load it
            shared = Shared(out / "cells", preset, image_size, tuple(broken))
            train_features(shared, usable, world, console)  # likewise
            progress = _Progress(options, out, shared, usable, parallel, cells, command, log)
            waiting = [job for job in jobs if any(read_finished(shared.directory(cell)) is None for cell in job)]
            failures = run_jobs(waiting, shared, options.data, world, parallel=parallel, on_end=progress.job_ended)
            ablation, report = progress.write()
    print_report(console, ablation, report)
    log(f"Report: {out / 'report.html'}   numbers: {out / 'ablation.json'}")
    if failures:
        errors = "\n".join(f"{name}: {error}" for name, error in failures.items())
        raise AlitokError(f"{len(failures)} of {len(jobs)} trainings failed; the rest is in the report.\n{errors}")
    return ablation


def cells_of(options: AblateOptions, preset: AblationPreset) -> list[Cell]:
    """The requested cells, seed by seed, so that a whole table is finished early.

    AlitokError for an unknown arm or a number out of range.
    """
    unknown = [arm for arm in options.arms if arm not in ARMS]
    if unknown:
        raise AlitokError(f"There is no arm {unknown[0]!r}; choose among: {', '.join(ARMS)}.")
    for name, value in (("--seeds", options.seeds), ("--parallel", options.parallel)):
        if value is not None and value < 1:
            raise AlitokError(f"{name} must be at least 1, not {value}.")
    wanted = {*options.arms, *(("E",) if options.longer else ())}
    wanted |= {base for arm in wanted if (base := ARMS[arm].codes_of) is not None}
    main = preset.codebook_size
    sizes = (main // 2, 2 * main) if options.codebook_sizes is None else options.codebook_sizes
    for size in (main, *sizes):
        if not 2 <= size <= MAX_CODEBOOK:
            raise AlitokError(f"A codebook has 2 to {MAX_CODEBOOK} entries, not {size}.")
    cells = []
    for seed in range(options.seeds):
        cells += [Cell(arm, main, seed) for arm in ARMS if arm in wanted]
        cells += [Cell(arm, size, seed) for arm in CURVE_ARMS if arm in wanted for size in sizes if size != main]
    return list(dict.fromkeys(cells))


def _preset(options: AblateOptions) -> AblationPreset:
    if options.preset not in ABLATION_PRESETS:
        raise AlitokError(f"There is no preset {options.preset!r}; choose one of: {', '.join(ABLATION_PRESETS)}.")
    values = to_dict(ABLATION_PRESETS[options.preset])
    return from_dict(AblationPreset, override(values, options.overrides), "--set")


def _jobs(cells: Sequence[Cell]) -> list[Job]:
    """Cells that share codes run one after the other in one process."""
    jobs: dict[Cell, list[Cell]] = {}
    for cell in cells:
        first = Cell(ARMS[cell.arm].codes_of or cell.arm, cell.codebook_size, cell.seed)
        jobs.setdefault(first, []).append(cell)
    return list(map(tuple, jobs.values()))


@dataclass
class _Progress:
    """Writes the report of the finished cells, and prints each as it ends."""

    options: AblateOptions
    out: Path
    shared: Shared
    splits: Splits
    parallel: int
    cells: Sequence[Cell]
    command: str
    log: Callable[[str], None]

    def __post_init__(self) -> None:
        self.began, self.before = time.monotonic(), len(self.finished())

    def finished(self) -> dict[Cell, CellNumbers]:
        found = {cell: read_finished(self.shared.directory(cell)) for cell in self.cells}
        return {cell: numbers for cell, numbers in found.items() if numbers is not None}

    def job_ended(self, job: Job) -> None:
        finished = self.finished()
        for cell in job:
            if (numbers := finished.get(cell)) is not None:
                self.log(
                    f"{cell.name}: {numbers.psnr:.2f} dB, {numbers.bits:.1f} bits per image, "
                    f"{numbers.accuracy:.1%} accuracy, {duration(numbers.seconds)}"
                )
        done, left = len(finished) - self.before, len(self.cells) - len(finished)
        if done and left:
            seconds = (time.monotonic() - self.began) / done * left
            self.log(f"{len(finished)} of {len(self.cells)} cells finished, about {duration(seconds)} left")
        if finished:
            self.write()

    def write(self) -> tuple[Ablation, Report]:
        preset, finished = self.shared.preset, self.finished()
        ablation = Ablation(
            data=self.splits.name,
            preset=self.options.preset,
            image_size=self.shared.image_size,
            patch_size=self.shared.image_size // preset.grid,
            codebook_size=preset.codebook_size,
            arms={arm: ARMS[arm].title for arm in ARMS if any(cell.arm == arm for cell in self.cells)},
            cells=tuple(finished.values()),
            settings={
                "version": __version__,
                "torch": torch.__version__,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "cells_at_a_time": self.parallel,
                "training_images": len(self.splits.train),
                "val_images": len(self.splits.val),
                "classes": len(self.splits.train.classes),
                "codes_per_image": f"{preset.grid**2}, and {preset.grid} of the prefix in arms with one",
                **{name: value for name, value in to_dict(preset).items() if not isinstance(value, dict)},
                "seeds": self.options.seeds,
            },
            planned=tuple((cell.arm, cell.codebook_size, cell.seed) for cell in self.cells),
        )
        reconstructions: dict[str, np.ndarray] = {}  # of each arm's first seed
        for cell in finished:
            if cell.codebook_size == preset.codebook_size and cell.arm not in reconstructions:
                originals, reconstructions[cell.arm] = read_preview(self.shared.directory(cell))
                reconstructions.setdefault(ORIGINALS, originals)
        return ablation, write_report(self.out, ablation, command=self.command, reconstructions=reconstructions)
