"""The trainings one by one, each with settings of its own, as `alitok train` does.

    python examples/train_stage_by_stage.py --out runs/stages               # digits: five minutes on two cores
    python examples/train_stage_by_stage.py --out runs/stages --steps 50    # one minute

Stage 1 decides the codes. Stage 2 (a better decoder) and the generator need it and not each other, so on two machines
that share the directory they can be trained at the same time. Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import alitok
from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics
from alitok.run.resolve import Request
from alitok.run.train import run_training


def main() -> None:
    """Train all three, telling the last line of each log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="of each training; unless given, the recipe's")
    parser.add_argument("--set", nargs="*", default=[], help="keys of the recipe that all stages share")
    options = parser.parse_args()

    overrides = list(options.set)
    if options.steps is not None:
        for training in ("stage1", "stage2", "generator"):
            steps = [f"{training}.phases.main.steps={options.steps}"]
            overrides += [*steps, f"{training}.phases.main.warmup_steps={options.steps // 10}"]
    # The run keeps data and recipe in its `run.toml`; later stages take them from there.
    run_training("stage1", Request(out=options.out, data=options.data, overrides=tuple(overrides)))
    # What only this stage reads may still be chosen: the generator's batch, for example.
    run_training("generator", Request(out=options.out, overrides=("generator.loop.batch_size=48",)))
    run_training("stage2", Request(out=options.out))

    for stage, number in (("stage1", "val_psnr"), ("generator", "val_accuracy"), ("stage2", "val_psnr")):
        print(f"{stage}: {number} {read_metrics(options.out / stage / 'metrics.jsonl')[-1][number]:.3f}")
    pipeline = alitok.Pipeline.from_pretrained(options.out / "model")
    print(f"Classes: {', '.join(pipeline.generator.class_names)}")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # what its reader can mend, in a sentence
        sys.exit(str(error))
