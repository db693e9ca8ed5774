"""Evaluate a model's samples and its reconstructions, each against its own reference.

    python examples/evaluate.py runs/demo/model --data digits --out evaluated           # a minute
    python examples/evaluate.py runs/demo/model --data digits --out evaluated --samples 2000

The default feature network is a classifier trained on the dataset itself, so nothing is downloaded; distances in its
features are not FID. Both reports open offline.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alitok.apps.evaluate.generation import run_eval_generation
from alitok.apps.evaluate.options import GenerationOptions, ReconstructionOptions
from alitok.apps.evaluate.reconstruction import run_eval_reconstruction
from alitok.core.errors import AlitokError


def main() -> None:
    """Evaluate both and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory with a saved pipeline")
    parser.add_argument("--data", default="digits", help="what it was trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--features", default="classifier", choices=["classifier", "inception"])
    options = parser.parse_args()

    generation = run_eval_generation(
        options.model,
        GenerationOptions(
            out=options.out / "generation", data=options.data, num=options.samples, features=options.features
        ),
        command="examples/evaluate.py",
    )
    reconstruction = run_eval_reconstruction(
        Path(options.model) / "tokenizer",
        ReconstructionOptions(data=options.data, out=options.out / "reconstruction", features=options.features),
        command="examples/evaluate.py",
    )
    for title, metrics in (("samples", generation), *reconstruction.items()):
        print(title)
        for name, value in metrics.items():
            print(f"  {name:32} {value:.4g}")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:
        sys.exit(str(error))
