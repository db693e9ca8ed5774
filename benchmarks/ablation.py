"""The ablation on built-in photographs: the causal decoder at equal PSNR, and the time of the suite.

    python benchmarks/ablation.py --out ablations/photos --seeds 3          # every cell; rerun to resume
    python benchmarks/ablation.py --out ablations/photos --seeds 3 --data photos --set tokenizer_steps=2400

Runs `alitok ablate --preset tiny` and writes the same files. `seconds` is the wall clock of this start alone,
`training_seconds` the sum over cells, however many ran at a time. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import torch

from alitok.apps.ablate.ablate import run_ablation
from alitok.apps.ablate.matched import matched_arms
from alitok.apps.ablate.numbers import Ablation, mean_std
from alitok.apps.ablate.options import AblateOptions
from alitok.recipes.arms import ARMS, USUAL_ARMS

_COLUMNS = ("accuracy", "bits", "grid_bits", "psnr", "codebook_perplexity", "sample_distance", "influence_future")


def main() -> None:
    """Run it and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="photos")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(USUAL_ARMS))
    parser.add_argument("--codebook-sizes", type=int, nargs="*")
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    args = parser.parse_args()
    options = AblateOptions(
        data=args.data,
        out=args.out,
        seeds=args.seeds,
        arms=tuple(args.arms),
        codebook_sizes=None if args.codebook_sizes is None else tuple(args.codebook_sizes),
        parallel=args.parallel,
        overrides=tuple(args.overrides),
    )
    began = time.monotonic()
    ablation = run_ablation(options, command=shlex.join(["python", *sys.argv]))
    result = {"benchmark": "ablation", "seconds": round(time.monotonic() - began, 1), **means(ablation)}
    result["machine"] = {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(result))


def means(ablation: Ablation) -> dict[str, object]:
    """Means over seeds of each arm, and the differences at equal PSNR."""
    table = {}
    for arm in ablation.arms:
        cells = ablation.of(arm)
        found = {name: mean_std(getattr(cell, name) for cell in cells) for name in _COLUMNS}
        table[arm] = {name: None if value is None else round(value.mean, 4) for name, value in found.items()}
    matched = {
        found.name: None if found.comparison.difference is None else round(found.comparison.difference.value, 2)
        for found in matched_arms(ablation)
    }
    return {
        "data": ablation.data,
        "preset": ablation.preset,
        "cells": len(ablation.cells),
        "seeds": len(ablation.seeds()),
        "training_seconds": round(sum(cell.seconds for cell in ablation.cells), 1),
        "table": table,
        "bits_at_equal_psnr": matched,
    }


if __name__ == "__main__":
    main()
