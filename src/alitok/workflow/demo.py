"""From pictures to pictures: the whole system as a sequence of resumable steps.

Enters: a source of pictures and a recipe. Leaves, in one directory:

    run.toml             data, seed and the resolved recipe
    stage1/ stage2/ generator/
                         one run each: metrics.jsonl, pictures/, checkpoints/, tensorboard/
    model/               the finished pair, for `alitok.Pipeline.from_pretrained`
    codes/train/ codes/heldout/   the pictures as codes
    samples/             samples.npz (all of them) and samples.png (a sheet)
    metrics.json         the numbers
    report.html          the numbers, curves and pictures in one file
"""

from __future__ import annotations

import importlib.util
import io
import time
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
from alitok.core.config import from_dict, merge, override, read_toml, to_dict
from alitok.core.device import DeviceName
from alitok.core.distributed import join, launched
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, write_bytes, write_json
from alitok.data.codes import CodeStore
from alitok.data.source import open_splits
from alitok.generator import Generator
from alitok.jobs.pipeline import Pipeline
from alitok.presets import Recipe, recipe_for
from alitok.workflow.measure import measure
from alitok.workflow.run import Run, settings
from alitok.workflow.summary import write_summary
from alitok.workflow.workspace import Workspace

OUTPUTS = ("features", "stage1", "stage2", "codes", "generator", "model", "samples", "metrics.json", "report.html")
STEPS = ("check", "features", "stage1", "stage2", "encode", "generator", "sample", "measure")


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked for; see `alitok demo --help`."""

    data: str = "digits"
    out: Path = Path("runs/demo")
    fresh: bool = False
    device: DeviceName = "auto"
    seed: int = 0
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    command: str = "alitok demo"


def resolve_recipe(options: DemoOptions) -> Recipe:
    """The preset for the data, with the user's file laid over it and the overrides over both.

    Raises:
        AlitokError: an unknown key or a value that does not fit, with the file or option it came from.
    """
    keys = to_dict(recipe_for(options.data))
    if options.config is not None:
        keys = to_dict(from_dict(Recipe, merge(keys, read_toml(options.config)), str(options.config)))
    return from_dict(Recipe, override(keys, options.overrides), "--set")


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Run or continue the demo; returns the numbers that stand in `metrics.json`."""
    console = Console()
    _need_extras()
    if not 0 <= options.seed < 2**63:
        raise AlitokError(f"The seed must be within 0 and 2^63, not {options.seed}.")
    if launched():
        raise AlitokError("The demo runs in one process; several train one stage at a time, with alitok train.")
    recipe = resolve_recipe(options)
    with join(options.device) as world:
        splits = open_splits(options.data, recipe.tokenizer.image_size, options.seed)
        workspace = Workspace(
            options.out,
            settings(recipe, splits, options.seed),
            outputs=OUTPUTS,
            fresh=options.fresh,
            console=console,
            world=world,
        )
        run = Run(recipe, splits, world, workspace, options.seed)
        console.print(
            f"{len(splits.train):,} training and {len(splits.heldout):,} held-out pictures of "
            f"{len(splits.train.classes)} classes at {recipe.tokenizer.image_size} px; on {world.device}; "
            f"to {options.out}/",
            highlight=False,
        )
        train_all(run)
        demo = _Demo(options, run)
        workspace.step("sample", "Samples", demo.sample, ["samples/samples.npz", "samples/samples.png"])
        workspace.step(
            "measure", "Numbers and report", demo.measure, ["metrics.json", "report.html", "model/README.md"]
        )
    metrics = read_json(options.out / "metrics.json")
    _show(console, metrics, options.out)
    return metrics


def train_all(run: Run) -> None:
    """All trainings of a run, from the pictures to the generator."""
    for name in ("check", "features", "stage1", "stage2", "encode", "generator"):
        run.step(name)


@dataclass(frozen=True)
class _Demo:
    """What follows the trainings."""

    options: DemoOptions
    run: Run

    @property
    def root(self) -> Path:
        return self.run.root

    def sample(self) -> dict[str, Any]:
        run, each = self.run, self.run.recipe.samples_per_class
        generator = Generator.from_pretrained(self.root / "model" / "generator").to(run.world.device)
        labels = np.repeat(np.arange(len(run.splits.train.classes)), each)
        drawn = run.draw(generator, run.tokenizer(), labels)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, arr_0=drawn.transpose(0, 2, 3, 1), labels=labels)
        write_bytes(self.root / "samples" / "samples.npz", buffer.getvalue())
        sheet = drawn.reshape(-1, each, *drawn.shape[1:])[:, :20]
        sheet = pixels.grid(sheet.reshape(-1, *drawn.shape[1:]), columns=sheet.shape[1])
        write_bytes(self.root / "samples" / "samples.png", pixels.png_bytes(sheet, scale=2))
        return {"samples": len(drawn)}

    def measure(self) -> dict[str, Any]:
        began = time.monotonic()
        drawn = self._samples()
        samples = drawn["arr_0"].transpose(0, 3, 1, 2)
        codes = CodeStore(self.root / "codes" / "train")
        run = self.run
        measured = measure(
            run.tokenizer(), codes, run.splits, samples, drawn["labels"], seed=run.seed, device=run.world.device
        )
        steps = {name: report for name in STEPS if (report := run.workspace.done(name)) is not None}
        before = sum(report["seconds"] for report in steps.values())
        metrics = {"seconds": before + time.monotonic() - began, **measured.numbers}
        write_json(self.root / "metrics.json", metrics)
        write_summary(self.root, self.options.command, metrics, measured, steps, run.world.device)
        card = ModelCard(
            title=f"alitok on {self.options.data}",
            description=f"Made by `{self.options.command}`.",
            data=f"{run.splits.train.name}: {len(run.splits.train):,} pictures of {len(codes.classes)} classes",
            steps={name: report["steps"] for name, report in steps.items() if "steps" in report},
            metrics=metrics,
        )
        Pipeline.from_pretrained(self.root / "model", device="cpu").save_pretrained(self.root / "model", card)
        return {}

    def _samples(self) -> Mapping[str, np.ndarray]:
        path = self.root / "samples" / "samples.npz"
        try:
            with np.load(path) as archive:
                return {name: archive[name] for name in ("arr_0", "labels")}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            raise AlitokError(f"{path} is damaged; delete it and run the same command again.") from None


def _need_extras() -> None:
    """Refuse to start what could not be measured and reported at the end."""
    missing = [name for name in ("jinja2", "matplotlib", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise AlitokError(f"The demo needs {', '.join(missing)}; install with: pip install 'alitok[demo]'.")


def _show(console: Console, metrics: dict[str, Any], out: Path) -> None:
    table = Table("number", "value", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    console.print(f"Report: {out / 'report.html'}   numbers: {out / 'metrics.json'}", highlight=False)
