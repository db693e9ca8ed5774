"""Planned memory and FLOPs beside the measurements of `train_step.py`.

    python benchmarks/plan.py benchmarks/results/train_step_full_size_cpu.json
    python benchmarks/plan.py results.json --generator L          # if measured with --generator L

Measured are peak resident memory on a CPU, and PyTorch's peak allocation on a GPU. Cases of several processes are
skipped. Resident memory includes Python and its libraries, so the baseline of this process is added to the plan. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import resource
from pathlib import Path
from typing import Any

import torch

from alitok.apps.plan.stage_cost import Layout, static_bytes
from alitok.apps.plan.step_trace import Rehearsal
from alitok.recipes.flops import generator_step_flops, tokenizer_step_flops
from alitok.recipes.presets import RECIPES, Recipe, StageName, with_generator

_FOLLOWED = ("plain", "bf16", "activation_checkpointing", "accumulate", "discriminator")


def recipe_of(preset: str, generator: str | None, option: str) -> Recipe:
    """The preset as `train_step.py` changes it: its first phase, without perceptual terms."""
    recipe = RECIPES[preset] if generator is None else with_generator(RECIPES[preset], generator)

    def changed(training: Any) -> Any:
        phase = training.phases[0]
        losses = phase.losses.with_perceptual("none")
        adversarial = option == "discriminator"
        losses = dataclasses.replace(losses, adversarial=0.1 if adversarial else 0.0)
        return dataclasses.replace(
            training, phases=(dataclasses.replace(phase, losses=losses, discriminator=adversarial),)
        )

    return dataclasses.replace(recipe, stage1=changed(recipe.stage1), stage2=changed(recipe.stage2))


def planned(recipe: Recipe, stage: StageName, case: dict[str, Any], option: str, classes: int) -> tuple[int, int]:
    """Bytes, and operations of an image."""
    rehearsal = Rehearsal(recipe, stage, classes)
    microbatches = 2 if option == "accumulate" else 1
    trace = rehearsal.step(
        case["batch_size"] // microbatches,
        half=case["precision"] == "bf16",
        activation_checkpointing=option == "activation_checkpointing",
        accumulating=microbatches > 1,
        fused_attention="NVIDIA" in case["device"],
    )
    ema = bool(recipe.training(stage).loop.optimizer.ema_decay)
    static = sum(static_bytes(rehearsal.weights, Layout("ddp", activation_checkpointing=False), 1, ema=ema))
    if stage == "generator":
        return static + trace.held_bytes, generator_step_flops(recipe.generator_size.config(recipe.tokenizer, classes))
    return static + trace.held_bytes, tokenizer_step_flops(recipe.tokenizer, stage)


def main() -> None:
    """Compare all cases of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--generator", choices=["B", "L", "XL"])
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    torch.rand(2000, 2000) @ torch.rand(2000, 2000)  # loads what the products need
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = []
    for path in options.results:
        measured = json.loads(path.read_text())
        for case in measured["cases"]:
            stage, option = case["case"].split(".")
            if case["processes"] > 1 or option not in _FOLLOWED:
                continue
            recipe = recipe_of(measured["preset"], options.generator, option)
            size, flops = planned(recipe, stage, case, option, options.classes)
            size += 0 if "NVIDIA" in case["device"] else libraries
            counted = case.get("gflops_per_image_counted")
            row = {
                "case": case["case"],
                "batch_size": case["batch_size"],
                "precision": case["precision"],
                "device": case["device"],
                "planned_gb": size / 1e9,
                "measured_gb": case["peak_memory_gb"],
                "memory_ratio": size / 1e9 / case["peak_memory_gb"],
                "flops_ratio": None if counted is None else flops / 1e9 / counted,
            }
            print(f"{row['case']:26} {row['planned_gb']:7.2f} GB planned, {row['measured_gb']:7.2f} GB measured")
            rows.append(row)
    machine = {"system": platform.platform(), "torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps({"benchmark": "plan", "libraries_gb": libraries / 1e9, "cases": rows, "machine": machine}))


if __name__ == "__main__":
    main()
