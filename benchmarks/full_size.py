"""Full-size models on this machine: one forward, backward and optimizer step of each at batch 1.

Each case runs in a separate process, for its peak memory. Prints a line per case, then one JSON object.

    python benchmarks/full_size.py                     # alitok-256: one training step; alitok-512: forward only
    python benchmarks/full_size.py --cases digits-stage1 digits-generator   # small
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

CASES = (
    "alitok-256-stage1",
    "alitok-256-stage2",
    "alitok-256-B",
    "alitok-256-L",
    "alitok-256-XL",
    "alitok-512-stage1-forward",
    "alitok-512-stage2-forward",
    "alitok-512-B-forward",
    "alitok-512-L-forward",
    "alitok-512-XL-forward",
)


def build(case: str) -> tuple[nn.Module, Callable[[], torch.Tensor], int, bool]:
    """A case's model, its loss function, FLOPs by formula, and whether it is trained."""
    import torch

    from alitok.generator import Generator
    from alitok.losses.objective import LossWeights, Objective
    from alitok.recipes.flops import decoder_flops, encoder_flops, generator_flops
    from alitok.recipes.presets import GENERATORS, RECIPE_CLASSES, RECIPES, TOKENIZERS
    from alitok.tokenizer import Tokenizer
    from alitok.train.generator import GeneratorTask, GeneratorTraining
    from alitok.train.schedule import Phase
    from alitok.train.task import LoopConfig, StepInfo
    from alitok.train.tokenizer import freeze_codes

    trained = not case.endswith("-forward")
    name = case.removesuffix("-forward")
    base = next(known for known in [*TOKENIZERS, *RECIPE_CLASSES] if name.startswith(known) and "v1" not in known)
    kind = name.removeprefix(base).lstrip("-") or "stage1"
    config = TOKENIZERS[base] if base in TOKENIZERS else RECIPES[base].tokenizer
    if kind.startswith("stage"):
        import dataclasses

        config = dataclasses.replace(config, **({"stage2": None} if kind == "stage1" else {}))
        model = Tokenizer(config)
        if kind == "stage2":
            freeze_codes(model)
        images = torch.rand(1, 3, config.image_size, config.image_size)

        def loss() -> torch.Tensor:
            result = model(images, kind)
            strip = {"prefix_strip": result.prefix_strip, "quantizer_loss": result.quantizer_loss}
            extra = strip if kind == "stage1" else {}
            return Objective({}, config.patch_size)(images, result.images, LossWeights(), **extra)["loss"]

        flops = encoder_flops(config) + decoder_flops(config, model.decoder(kind).config)
        return model, loss, flops, trained
    size, classes = (
        (GENERATORS[kind], 1000) if base in TOKENIZERS else (RECIPES[base].generator_size, RECIPE_CLASSES[base])
    )
    model = Generator(size.config(config, classes))
    codes = torch.randint(config.codebook_size, (1, config.sequence_length))
    batch = codes, torch.zeros(1, dtype=torch.int64)
    training = GeneratorTraining(loop=LoopConfig(batch_size=1), phases=(Phase(steps=1),))
    task = GeneratorTask(model, training, lambda start: iter(()), batch)

    def generator_loss() -> torch.Tensor:
        return next(task.losses({"model": model}, batch, StepInfo(0, 0, 0))).minimise

    return model, generator_loss, generator_flops(model.config), trained


def run(case: str) -> dict:
    """Measure one case in this process."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from alitok.train.optim import OptimizerConfig, make_optimizer

    model, loss, formula, trained = build(case)
    seconds = {}
    began = time.perf_counter()
    if trained:
        value = loss()
        seconds["forward"], began = time.perf_counter() - began, time.perf_counter()
        value.backward()
        seconds["backward"], began = time.perf_counter() - began, time.perf_counter()
        watched = max((p for p in model.parameters() if p.grad is not None), key=lambda p: p.grad.abs().max())
        before = watched.detach().clone()
        make_optimizer(model, OptimizerConfig()).step()
        seconds["optimizer"] = time.perf_counter() - began
        moved = not torch.equal(before, watched)
    else:
        with torch.no_grad():
            value = loss()
        seconds["forward"], moved = time.perf_counter() - began, None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counter = FlopCounterMode(display=False)  # after reading the peak: the math kernel holds all L x L scores
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        loss()
    return {
        "case": case,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad) if trained else 0,
        "gflops_counted": counter.get_total_flops() / 1e9,
        "gflops_formula": formula / 1e9,
        "peak_memory_gb": peak / 1e9,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "loss": value.item(),
        "moved": moved,
    }


def main() -> None:
    """Measure the requested cases, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one)))
        return
    results = []
    for case in options.cases:
        done = subprocess.run([sys.executable, __file__, "--one", case], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{case} failed:\n{done.stderr}")
        result = json.loads(done.stdout.splitlines()[-1])
        results.append(result)
        print(
            f"{case:22} {result['parameters']:>12,} parameters  {result['gflops_counted']:8.1f} GFLOP counted  "
            f"{result['gflops_formula']:8.1f} by formula  {result['peak_memory_gb']:6.2f} GB peak  {result['seconds']}"
        )
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "commit": commit.stdout.strip(),
    }
    print(json.dumps({"benchmark": "full_size", "machine": machine, "cases": results}))


if __name__ == "__main__":
    main()
