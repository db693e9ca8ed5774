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

import dataclasses
import importlib.util
import io
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from alitok.core import images as pixels
from alitok.core.card import ModelCard
from alitok.core.config import from_dict, merge, override, read_toml, to_dict
from alitok.core.device import DeviceName, choose_device, seed_step
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, write_bytes, write_json
from alitok.core.runlog import progress_bar
from alitok.data.codes import CodeStore, write_codes
from alitok.data.loader import Batches, CodeBatches
from alitok.data.source import ImageSource, Splits, open_splits
from alitok.generator import Generator
from alitok.jobs.pipeline import Pipeline
from alitok.jobs.synthesize import synthesize
from alitok.jobs.tokenize import PictureBatch, tokenize
from alitok.presets import Recipe, recipe_for
from alitok.tokenizer import Tokenizer
from alitok.train.generator import GeneratorTask
from alitok.train.loop import Trained, train
from alitok.train.task import Batch, LoopConfig, Task
from alitok.train.tokenizer import TokenizerTask
from alitok.workflow.measure import measure
from alitok.workflow.summary import write_summary
from alitok.workflow.workspace import Workspace

OUTPUTS = ("stage1", "stage2", "codes", "generator", "model", "samples", "metrics.json", "report.html")
STEPS = ("check", "stage1", "stage2", "encode", "generator", "sample", "measure")
_LOOK = 256  # held-out pictures looked at during training
_READ_BATCH = 256  # pictures encoded or drawn at a time
_PREVIEW_CLASSES, _PREVIEW_EACH = 10, 8


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
    recipe = resolve_recipe(options)
    device = choose_device(options.device)
    splits = open_splits(options.data, recipe.tokenizer.image_size, options.seed)
    settings = {
        "data": splits.name,
        "contents": splits.contents,
        "seed": options.seed,
        "recipe": to_dict(recipe),
    }
    workspace = Workspace(options.out, settings, outputs=OUTPUTS, fresh=options.fresh, console=console)
    run = _Run(options, recipe, splits, device, workspace)
    console.print(
        f"{len(splits.train):,} training and {len(splits.heldout):,} held-out pictures of "
        f"{len(splits.train.classes)} classes at {recipe.tokenizer.image_size} px; on {device}; to {options.out}/",
        highlight=False,
    )
    loops = recipe.stage1.loop, recipe.stage2.loop, recipe.generator.loop
    workspace.step("check", "Checking the pictures", run.check)
    stage1, stage2 = (f"{loop.steps} steps" for loop in loops[:2])
    workspace.step("stage1", f"Stage 1: causal decoder, {stage1}", run.stage1, ["stage1/tokenizer"])
    workspace.step("stage2", f"Stage 2: bidirectional decoder, {stage2}", run.stage2, ["model/tokenizer"])
    workspace.step("encode", "Pictures to codes", run.encode, ["codes/train", "codes/heldout"])
    workspace.step("generator", f"Generator, {loops[2].steps} steps", run.generator, ["model/generator"])
    workspace.step("sample", "Samples", run.sample, ["samples/samples.npz", "samples/samples.png"])
    workspace.step("measure", "Numbers and report", run.measure, ["metrics.json", "report.html", "model/README.md"])
    metrics = read_json(options.out / "metrics.json")
    _show(console, metrics, options.out)
    return metrics


class _Run:
    """The steps; each reads what it needs from disk, so that a continued run does what an unbroken one does."""

    def __init__(
        self, options: DemoOptions, recipe: Recipe, splits: Splits, device: torch.device, workspace: Workspace
    ) -> None:
        self.options, self.recipe, self.splits, self.device = options, recipe, splits, device
        self.workspace, self.root = workspace, workspace.root

    def check(self) -> dict[str, Any]:
        """Decode every picture once, so that a broken one stops the run now and not hours later."""
        for source in (self.splits.train, self.splits.heldout):
            with progress_bar(self.workspace.console, source.name, len(source)) as bar:
                source.verify(bar.advance)
        return {"train": len(self.splits.train), "heldout": len(self.splits.heldout)}

    def stage1(self) -> dict[str, Any]:
        seed_step(self.options.seed, "tokenizer weights", 0)
        tokenizer = Tokenizer(dataclasses.replace(self.recipe.tokenizer, stage2=None))
        training = self.recipe.stage1
        task = TokenizerTask(tokenizer, "stage1", training.losses, self._pictures(training.loop), self._look())
        trained = self._train(task, training.loop)
        assert isinstance(trained.model, Tokenizer)
        trained.model.cpu().save_pretrained(self.root / "stage1" / "tokenizer")
        return _report(trained, trained.model)

    def stage2(self) -> dict[str, Any]:
        seed_step(self.options.seed, "stage-2 weights", 0)
        tokenizer = Tokenizer(self.recipe.tokenizer)
        tokenizer.load_codes(self.root / "stage1" / "tokenizer")
        training = self.recipe.stage2
        task = TokenizerTask(tokenizer, "stage2", training.losses, self._pictures(training.loop), self._look())
        trained = self._train(task, training.loop)
        assert isinstance(trained.model, Tokenizer)
        trained.model.cpu().save_pretrained(self.root / "model" / "tokenizer")
        assert trained.model.stage2 is not None
        return _report(trained, trained.model.stage2)

    def encode(self) -> dict[str, Any]:
        tokenizer = self._tokenizer()
        for name, source in (("train", self.splits.train), ("heldout", self.splits.heldout)):
            write_codes(
                self.root / "codes" / name,
                tokenize(tokenizer, fixed_batches(source), self.device),
                codebook_size=tokenizer.config.codebook_size,
                classes=source.classes,
                tokenizer=tokenizer.codes_fingerprint(),
            )
        return {"pictures": len(self.splits.train) + len(self.splits.heldout)}

    def generator(self) -> dict[str, Any]:
        tokenizer = self._tokenizer()
        stores = [CodeStore(self.root / "codes" / name, tokenizer.codes_fingerprint()) for name in ("train", "heldout")]
        stores[0].verify()
        seed_step(self.options.seed, "generator weights", 0)
        size, classes = self.recipe.generator_size, self.splits.train.classes
        generator = Generator(size.config(self.recipe.tokenizer, len(classes)), classes)
        training = self.recipe.generator
        rows = np.arange(len(stores[1]))[:: math.ceil(len(stores[1]) / _LOOK)]
        heldout = (
            torch.from_numpy(stores[1].codes(rows).astype(np.int64)),
            torch.from_numpy(stores[1].labels[rows].astype(np.int64)),
        )

        def batches(start_step: int) -> Iterator[Batch]:
            return iter(CodeBatches(stores[0], training.loop.batch_size, self.options.seed, start_step))

        def preview(model: Generator) -> np.ndarray:
            shown = np.repeat(np.arange(len(classes))[:_PREVIEW_CLASSES], _PREVIEW_EACH)
            return pixels.grid(self._draw(model, tokenizer, shown), columns=_PREVIEW_EACH)

        task = GeneratorTask(generator, training.class_dropout, batches, heldout, preview)
        trained = self._train(task, training.loop)
        assert isinstance(trained.model, Generator)
        Pipeline(tokenizer.cpu(), trained.model.cpu(), self.recipe.sampling).save_pretrained(self.root / "model")
        return _report(trained, trained.model)

    def sample(self) -> dict[str, Any]:
        generator = Generator.from_pretrained(self.root / "model" / "generator").to(self.device)
        labels = np.repeat(np.arange(len(self.splits.train.classes)), self.recipe.samples_per_class)
        drawn = self._draw(generator, self._tokenizer(), labels)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, arr_0=drawn.transpose(0, 2, 3, 1), labels=labels)
        write_bytes(self.root / "samples" / "samples.npz", buffer.getvalue())
        sheet = drawn.reshape(-1, self.recipe.samples_per_class, *drawn.shape[1:])[:, :20]
        sheet = pixels.grid(sheet.reshape(-1, *drawn.shape[1:]), columns=sheet.shape[1])
        write_bytes(self.root / "samples" / "samples.png", pixels.png_bytes(sheet, scale=2))
        return {"samples": len(drawn)}

    def measure(self) -> dict[str, Any]:
        began = time.monotonic()
        drawn = self._samples()
        samples = drawn["arr_0"].transpose(0, 3, 1, 2)
        codes = CodeStore(self.root / "codes" / "train")
        measured = measure(
            self._tokenizer(), codes, self.splits, samples, drawn["labels"], seed=self.options.seed, device=self.device
        )
        steps = {name: report for name in STEPS if (report := self.workspace.done(name)) is not None}
        before = sum(report["seconds"] for report in steps.values())
        metrics = {"seconds": before + time.monotonic() - began, **measured.numbers}
        write_json(self.root / "metrics.json", metrics)
        write_summary(self.root, self.options.command, metrics, measured, steps, self.device)
        card = ModelCard(
            title=f"alitok on {self.options.data}",
            description=f"Made by `{self.options.command}`.",
            data=f"{self.splits.train.name}: {len(self.splits.train):,} pictures of {len(codes.classes)} classes",
            steps={name: steps[name]["steps"] for name in ("stage1", "stage2", "generator")},
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

    def _train(self, task: Task, loop: LoopConfig) -> Trained:
        directory = self.root / task.name
        console = self.workspace.console
        return train(task, loop, directory, device=self.device, seed=self.options.seed, console=console)

    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_pretrained(self.root / "model" / "tokenizer").to(self.device)

    def _draw(self, generator: Generator, tokenizer: Tokenizer, labels: np.ndarray) -> np.ndarray:
        drawn = synthesize(
            generator,
            tokenizer,
            labels.tolist(),
            self.recipe.sampling,
            seed=self.options.seed,
            batch_size=_READ_BATCH,
            device=self.device,
        )
        return np.concatenate(list(drawn))

    def _look(self) -> np.ndarray:
        """Evenly spread held-out pictures (N, 3, h, h)."""
        source = self.splits.heldout
        rows = range(0, len(source), math.ceil(len(source) / _LOOK))
        return np.stack([source.read(row, None) for row in rows])

    def _pictures(self, loop: LoopConfig) -> Callable[[int], Iterator[Batch]]:
        seed = self.options.seed
        workers = loop.workers
        return lambda start_step: iter(Batches(self.splits.train, loop.batch_size, seed, start_step, workers))


def fixed_batches(source: ImageSource) -> Iterator[PictureBatch]:
    """The fixed view of every picture, in order."""
    for start in range(0, len(source), _READ_BATCH):
        rows = range(start, min(start + _READ_BATCH, len(source)))
        yield np.stack([source.read(row, None) for row in rows]), source.labels[start : rows.stop]


def _need_extras() -> None:
    """Refuse to start what could not be measured and reported at the end."""
    missing = [name for name in ("jinja2", "matplotlib", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise AlitokError(f"The demo needs {', '.join(missing)}; install with: pip install 'alitok[demo]'.")


def _report(trained: Trained, module: torch.nn.Module) -> dict[str, Any]:
    return {
        "earlier_seconds": trained.earlier_seconds,
        "step_seconds": trained.step_seconds,
        "steps": trained.steps,
        "batch_size": trained.batch_size,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


def _show(console: Console, metrics: dict[str, Any], out: Path) -> None:
    table = Table("number", "value", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    console.print(f"Report: {out / 'report.html'}   numbers: {out / 'metrics.json'}", highlight=False)
