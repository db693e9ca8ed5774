"""The whole ablation: its cells, done side by side in processes of their own, and the report of what is finished.

Enters: data, a preset, arms, codebook sizes and seeds. Leaves, in the directory:

    ablation.toml         what all cells share; another is refused here
    cells/NAME/           one run each, see `alitok.apps.ablate.cell`; NAME.log beside it tells how it went
    cells/features/       where there is a perceptual term: what all cells compare images in
    ablation.json, table.md, plot.svg, report.html

The report is written anew whenever a cell is finished, so that an interrupted ablation can be read as far as it came.
"""

from __future__ import annotations

import os
import platform
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from alitok import __version__
from alitok.apps.ablate.cell import SPLIT_SEED, Cell, Shared, finished, learn_features, shown
from alitok.apps.ablate.numbers import Ablation
from alitok.apps.ablate.report import print_ablation, write_ablation
from alitok.apps.ablate.workers import Job, work_off
from alitok.core.config import from_dict, override, read_toml, to_dict, to_toml
from alitok.core.console import duration, reporter
from alitok.core.device import DeviceName
from alitok.core.distributed import World, join, launched
from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes
from alitok.core.system import cores, require_libraries, stoppable
from alitok.data.codes import MAX_CODEBOOK
from alitok.data.split import Splits
from alitok.data.survey import preview
from alitok.recipes.arms import ABLATION_PRESETS, ARMS, CURVE_ARMS, USUAL_ARMS, AblationPreset, ArmName
from alitok.run.classifier import judge_of
from alitok.run.originals import open_images_of, verify
from alitok.run.workspace import differences

_SETTINGS, _CELLS = "ablation.toml", "cells"


@dataclass(frozen=True)
class AblationRequest:
    """What was asked for.

    Attributes:
        data: which images.
        out: the directory.
        preset: a name in `ABLATION_PRESETS`.
        seeds: how many trainings of each cell.
        arms: rows of the table; those whose codes they share are added.
        codebook_sizes: of the comparison at equal fidelity, for arms A and B; None takes half and twice the preset's.
        longer: adds arm E.
        overrides: `key=value` of the preset.
        parallel: cells at a time; None = one for each GPU, or for each core.
        device: where to compute.
    """

    data: str
    out: Path
    preset: str = "tiny"
    seeds: int = 1
    arms: tuple[ArmName, ...] = USUAL_ARMS
    codebook_sizes: tuple[int, ...] | None = None
    longer: bool = False
    overrides: tuple[str, ...] = ()
    parallel: int | None = None
    device: DeviceName = "auto"


def run_ablation(request: AblationRequest, *, command: str) -> Ablation:
    """Do or continue an ablation and write its report.

    Raises:
        AlitokError: a request or data that cannot be used, a library that is missing, a directory of another ablation,
            or cells that failed; the others are finished and in the report then.
    """
    require_libraries("An ablation", "eval", "scipy", "torchmetrics", "jinja2", "matplotlib")
    if launched():
        raise AlitokError("alitok ablate starts its own processes; start it without torchrun.")
    preset = _preset(request)
    with join(request.device) as world, stoppable():
        console = Console()
        say = reporter(console)
        image_size = preset.image_size(preview(request.data, log=say).image_size)
        splits = open_images_of(request.data, image_size, SPLIT_SEED, console)
        if len(np.unique(splits.train.labels)) < 2:
            raise AlitokError(f"{splits.name} has one class; the samples of an ablation are judged by at least two.")
        cells = plan(request, preset)
        jobs = _jobs(cells)
        parallel = request.parallel or _at_a_time(world)
        say(
            f"{len(cells)} cells of {len(splits.train):,} training images at {image_size} px, "
            f"{parallel} at a time; to {request.out}/"
        )
        _take_settings(request, preset, splits, image_size)
        broken = verify(splits, "all", world, console)
        whole = splits.without({key for key, _ in broken})
        judge_of(whole, world, console)  # once, before the cells look for it
        shared = Shared(request.out / _CELLS, preset, image_size, tuple(broken))
        learn_features(shared, whole, world, console)  # likewise
        report = _Report(request, shared, whole, parallel, cells, command, console)
        waiting = [job for job in jobs if any(finished(shared.place(cell)) is None for cell in job.cells)]
        failures = work_off(waiting, shared, request.data, world, parallel=parallel, on_end=report.tell)
    ablation = report.write()
    print_ablation(console, ablation)
    say(f"Report: {request.out / 'report.html'}   numbers: {request.out / 'ablation.json'}")
    if failures:
        told = "\n".join(f"{name}: {sentence}" for name, sentence in failures.items())
        raise AlitokError(f"{len(failures)} of {len(jobs)} trainings failed; the rest is in the report.\n{told}")
    return ablation


def plan(request: AblationRequest, preset: AblationPreset) -> list[Cell]:
    """The cells that are asked for, seed by seed, so that a whole table is there as soon as one can be.

    Raises:
        AlitokError: an arm or a number that makes no sense.
    """
    unknown = [arm for arm in request.arms if arm not in ARMS]
    if unknown:
        raise AlitokError(f"There is no arm {unknown[0]!r}; choose among: {', '.join(ARMS)}.")
    if request.seeds < 1:
        raise AlitokError(f"--seeds must be at least 1, not {request.seeds}.")
    if request.parallel is not None and request.parallel < 1:
        raise AlitokError(f"--parallel must be at least 1, not {request.parallel}.")
    wanted = {*request.arms, *(("E",) if request.longer else ())}
    wanted |= {base for arm in wanted if (base := ARMS[arm].codes_of) is not None}
    main = preset.codebook_size
    sizes = (main // 2, 2 * main) if request.codebook_sizes is None else request.codebook_sizes
    for size in (main, *sizes):
        if not 2 <= size <= MAX_CODEBOOK:
            raise AlitokError(f"A codebook has 2 to {MAX_CODEBOOK} entries, not {size}.")
    cells = []
    for seed in range(request.seeds):
        cells += [Cell(arm, main, seed) for arm in ARMS if arm in wanted]
        cells += [Cell(arm, size, seed) for arm in CURVE_ARMS if arm in wanted for size in sizes if size != main]
    return list(dict.fromkeys(cells))


def _preset(request: AblationRequest) -> AblationPreset:
    if request.preset not in ABLATION_PRESETS:
        raise AlitokError(f"There is no preset {request.preset!r}; choose one of: {', '.join(ABLATION_PRESETS)}.")
    keys = to_dict(ABLATION_PRESETS[request.preset])
    return from_dict(AblationPreset, override(keys, request.overrides), "--set")


def _jobs(cells: Sequence[Cell]) -> list[Job]:
    """Cells that need one another, one after the other in one process."""
    jobs: dict[Cell, list[Cell]] = {}
    for cell in cells:
        first = Cell(ARMS[cell.arm].codes_of or cell.arm, cell.codebook_size, cell.seed)
        jobs.setdefault(first, []).append(cell)
    return [Job(tuple(members)) for members in jobs.values()]


def _at_a_time(world: World) -> int:
    return torch.cuda.device_count() if world.device.type == "cuda" else cores()


def _take_settings(request: AblationRequest, preset: AblationPreset, splits: Splits, image_size: int) -> None:
    """Write down what all cells share, or refuse another than before; seeds, arms and sizes may be added."""
    path = request.out / _SETTINGS
    values = {
        "data": splits.name,
        "contents": splits.contents,
        "image_size": image_size,
        "preset": request.preset,
        "sizes": to_dict(preset),
    }
    if request.out.exists() and not path.is_file() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise AlitokError(f"{request.out} holds other files and no ablation; give a new or empty directory with --out.")
    if path.is_file():
        changed = differences(read_toml(path), tomllib.loads(to_toml(values)))
        if changed:
            raise AlitokError(
                f"{request.out} holds an ablation with other settings ({', '.join(changed)}); choose another directory "
                "with --out."
            )
    write_bytes(path, to_toml(values).encode())


class _Report:
    """Writes the report of the cells that are finished, and tells of each as it ends."""

    def __init__(
        self,
        request: AblationRequest,
        shared: Shared,
        splits: Splits,
        parallel: int,
        cells: Sequence[Cell],
        command: str,
        console: Console,
    ) -> None:
        self._request, self._shared, self._splits, self._parallel = request, shared, splits, parallel
        self._cells, self._command, self._say = cells, command, reporter(console)
        self._began, self._before = time.monotonic(), len(self._done())

    def _done(self) -> list[Cell]:
        return [cell for cell in self._cells if finished(self._shared.place(cell)) is not None]

    def tell(self, job: Job) -> None:
        """A job has ended, well or not."""
        done = self._done()
        for cell in job.cells:
            numbers = finished(self._shared.place(cell))
            if numbers is not None:
                self._say(
                    f"{cell.name}: {numbers.psnr:.2f} dB, {numbers.bits:.1f} bits an image, {numbers.accuracy:.1%} of "
                    f"codes guessed, {duration(numbers.tokenizer_seconds + numbers.generator_seconds)}"
                )
        fresh, left = len(done) - self._before, len(self._cells) - len(done)
        if fresh and left:
            seconds = (time.monotonic() - self._began) / fresh * left
            self._say(f"{len(done)} of {len(self._cells)} cells done, about {duration(seconds)} to go")
        if done:
            self.write()

    def write(self) -> Ablation:
        """Write the report anew."""
        cells = self._done()
        ablation = Ablation(
            data=self._splits.name,
            preset=self._request.preset,
            image_size=self._shared.image_size,
            patch_size=self._shared.image_size // self._shared.preset.grid,
            codebook_size=self._shared.preset.codebook_size,
            arms={arm: ARMS[arm].title for arm in ARMS if any(cell.arm == arm for cell in self._cells)},
            cells=tuple(found for cell in cells if (found := finished(self._shared.place(cell))) is not None),
            settings=self._settings(),
            planned=tuple((cell.arm, cell.codebook_size, cell.seed) for cell in self._cells),
        )
        write_ablation(self._request.out, ablation, command=self._command, sheets=self._sheets(cells))
        return ablation

    def _sheets(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """Of each arm, its first seed's reconstructions (n, 3, h, h); `originals` are the images."""
        sheets: dict[str, np.ndarray] = {}
        for cell in cells:
            if cell.codebook_size == self._shared.preset.codebook_size and cell.arm not in sheets:
                originals, rebuilt = shown(self._shared.place(cell))
                sheets.setdefault("originals", originals)
                sheets[cell.arm] = rebuilt
        return sheets

    def _settings(self) -> dict[str, Any]:
        preset = self._shared.preset
        return {
            "version": __version__,
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "cells_at_a_time": self._parallel,
            "training_images": len(self._splits.train),
            "val_images": len(self._splits.val),
            "classes": len(self._splits.train.classes),
            "codes_per_image": f"{preset.grid**2}, and {preset.grid} of the prefix in arms with one",
            **{name: value for name, value in to_dict(preset).items() if not isinstance(value, dict)},
            "seeds": self._request.seeds,
        }
