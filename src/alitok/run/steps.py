"""The steps of a run: what each one makes, what it needs, and which settings decide its results."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One step; `products` and `outputs` are paths below the run's directory.

    Its results are decided by `settings`, key paths of `run.toml`, each with all below it. `parts` are the files of a
    model, which is the first product; `outputs` is all that it writes, finished or not.
    """

    title: str
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """All paths without which the step must be done again."""
        return (*self.products, *(f"{self.products[0]}/{part}" for part in self.parts))


def _parts(*names: str) -> tuple[str, ...]:
    return ("config.json", *(f"{name}.safetensors" for name in names))


_CODES = ("image_size", "patch_size", "prefix", "codebook_size", "code_width", "encoder", "stage1")

STEPS = {
    "check": Step("Checking the images", settings=("data", "contents", "seed", "recipe.tokenizer.image_size")),
    "features": Step(
        "Feature network",
        needs=("check",),
        settings=("recipe.features",),
        products=("features/network",),
        parts=_parts("weights"),
        outputs=("features",),
    ),
    "stage1": Step(
        "Stage 1: causal decoder",
        needs=("check", "features"),
        settings=(*(f"recipe.tokenizer.{name}" for name in _CODES), "recipe.stage1"),
        products=("stage1/tokenizer",),
        parts=_parts("encoder", "quantizer", "stage1"),
        outputs=("stage1",),
    ),
    "stage2": Step(
        "Stage 2: bidirectional decoder",
        needs=("stage1",),
        settings=("recipe.tokenizer.stage2", "recipe.stage2"),
        products=("model/tokenizer",),
        parts=_parts("encoder", "quantizer", "stage1", "stage2"),
        outputs=("stage2", "model/tokenizer"),
    ),
    "encode": Step(
        "Images to codes",
        needs=("stage1",),
        settings=("recipe.crops",),
        products=("codes/train", "codes/val"),
        outputs=("codes",),
    ),
    "generator": Step(
        "Generator",
        needs=("encode",),
        settings=("recipe.generator", "recipe.generator_size"),
        products=("model/generator",),
        parts=_parts("generator"),
        outputs=("generator", "model/generator"),
    ),
    "pipeline": Step(
        "Pipeline of both models",
        needs=("stage2", "generator"),
        settings=("recipe.sampling",),
        products=("model/pipeline.json", "model/README.md"),
        outputs=("model/pipeline.json", "model/README.md"),
    ),
    "sample": Step(
        "Samples",
        needs=("pipeline",),
        settings=("recipe.samples_per_class",),
        products=("samples/samples.npz", "samples/samples.png"),
        outputs=("samples",),
    ),
    "measure": Step(
        "Metrics and report",
        needs=("sample",),
        products=("metrics.json", "report.html"),
        outputs=("metrics.json", "report.html"),
    ),
}

TRAININGS = ("features", "stage1", "stage2", "generator")

# How often something is saved or evaluated changes no weight.
_IGNORED = re.compile(
    r"recipe\.\w+\.(loop\.(log_every|evaluate_every|checkpoint_every|keep|max_skips|max_restores)"
    r"|usage_alarm|predictability(\..*)?)"
)


def stale(changed: Iterable[str]) -> list[str]:
    """The steps whose results another value of these settings would have changed, in order."""
    deciding = [path for path in changed if not _IGNORED.fullmatch(path)]
    found: list[str] = []
    for name, step in STEPS.items():
        by_itself = any(_within(path, setting) for path in deciding for setting in step.settings)
        if by_itself or any(need in found for need in step.needs):
            found.append(name)
    return found


def _within(path: str, setting: str) -> bool:
    """Whether one path is the other, or lies below it."""
    longer, shorter = (path, setting) if len(path) >= len(setting) else (setting, path)
    return longer == shorter or longer.startswith(f"{shorter}.")


def begun(root: Path, name: str) -> bool:
    """Whether a step has left anything in the run's directory."""
    return any((root / path).exists() for path in remains(name))


def remains(name: str) -> tuple[str, ...]:
    """All paths below the run's directory that a step leaves, its marker included."""
    return (*STEPS[name].outputs, marker(name))


def marker(name: str) -> str:
    """The file that marks a step as done."""
    return f"done/{name}.json"


def outputs() -> tuple[str, ...]:
    """Everything that the steps of a run write, top level names only."""
    return tuple(dict.fromkeys(path.partition("/")[0] for step in STEPS.values() for path in step.outputs))
