"""Stage by stage, each with its own settings, as in `alitok train`.

    python examples/train_stage_by_stage.py --out runs/stages               # digits: five minutes on two cores
    python examples/train_stage_by_stage.py --out runs/stages --steps 50    # one minute

Stage 1 determines the codes. Stage 2 (a better decoder) and the generator need only stage 1, so two machines that share
the directory can train them at the same time. Rerun the same command to resume.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import alitok
from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics
from alitok.run.options import TrainOptions
from alitok.run.train import run_training


def main() -> None:
    """Train all three, and print the last record of each log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="of each training; by default the recipe's")
    parser.add_argument("--set", nargs="*", default=[], help="keys of the recipe, for all stages")
    options = parser.parse_args()

    overrides = list(options.set)
    if options.steps is not None:
        for training in ("stage1", "stage2", "generator"):
            steps = [f"{training}.phases.main.steps={options.steps}"]
            overrides += [*steps, f"{training}.phases.main.warmup_steps={options.steps // 10}"]
    # The run stores data and recipe in its `run.toml`; later stages read them from there.
    run_training("stage1", TrainOptions(out=options.out, data=options.data, overrides=tuple(overrides)))
    # Settings that only this stage reads may still change, such as the batch size of the generator.
    run_training("generator", TrainOptions(out=options.out, overrides=("generator.loop.batch_size=48",)))
    run_training("stage2", TrainOptions(out=options.out))

    for stage, number in (("stage1", "val_psnr"), ("generator", "val_accuracy"), ("stage2", "val_psnr")):
        print(f"{stage}: {number} {read_metrics(options.out / stage / 'metrics.jsonl')[-1][number]:.3f}")
    pipeline = alitok.Pipeline.from_pretrained(options.out / "model")
    print(f"Classes: {', '.join(pipeline.generator.class_names)}")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # an error that the user can fix
        sys.exit(str(error))
