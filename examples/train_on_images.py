"""Everything in one call: from images to a tokenizer, a generator and a report, as in `alitok fit`.

    python examples/train_on_images.py --out runs/mine                     # digits: over five minutes on two cores
    python examples/train_on_images.py --data ~/images --out runs/mine     # one folder per class
    python examples/train_on_images.py --out runs/quick --steps 50         # two minutes; blurred, but complete

Rerun the same command to resume.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alitok.core.errors import AlitokError
from alitok.run.fit import run_fit
from alitok.run.options import FitOptions


def main() -> None:
    """Train, then print results and where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="a folder, or any other source of images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="of each of the three trainings; by default the recipe's")
    parser.add_argument("--set", nargs="*", default=[], help="further keys of the recipe, as key.path=value")
    options = parser.parse_args()
    overrides = list(options.set)
    if options.steps is not None:
        for training in ("stage1", "stage2", "generator"):
            overrides.append(f"{training}.phases.main.steps={options.steps}")
            overrides.append(f"{training}.phases.main.warmup_steps={options.steps // 10}")
    fit_options = FitOptions(out=options.out, overrides=tuple(overrides))
    metrics = run_fit(options.data, fit_options, command="examples/train_on_images.py")
    print(f"Reconstruction PSNR {metrics['psnr_stage2']:.1f} dB; the report is {options.out / 'report.html'}.")
    print(f"Sample with: alitok.Pipeline.from_pretrained({str(options.out / 'model')!r})")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # an error that the user can fix
        sys.exit(str(error))
