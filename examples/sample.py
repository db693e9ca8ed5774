"""Sample images: classes, seeds and settings mixed in one batch, streamed row by row, and completed from first rows.

    python examples/sample.py runs/demo/model --out samples      # seconds on a CPU for a model of 16 px digits

An image is a function of its class, settings and seed, whatever else is in the batch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import alitok
from alitok.core.errors import AlitokError


def main() -> None:
    """Sample from one model in every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory with a saved pipeline, or owner/name on the hub")
    parser.add_argument("--out", type=Path, default=Path("samples"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipeline = alitok.Pipeline.from_pretrained(options.model)
    names = pipeline.generator.class_names

    # One image per class, by number or name; one seed for all.
    for name, image in zip(names, pipeline(list(names), seed=0), strict=True):
        image.save(options.out / f"{name.replace('/', '_')}.png")

    # One class three times, each image with its own seed and settings.
    plain = alitok.SamplingConfig()
    guided = alitok.SamplingConfig(guidance_scale=4.0, top_k=20)
    greedy = alitok.SamplingConfig(temperature=0.0)
    mixed = pipeline([0, 0, 0], seed=[7, 7, 8], sampling=[plain, guided, greedy])
    again = pipeline(0, seed=7, sampling=guided)[0]
    assert np.array_equal(np.asarray(mixed[1]), np.asarray(again))  # the same pixels, alone or in a batch
    for number, image in enumerate(mixed):
        image.save(options.out / f"mixed-{number}.png")

    # Strips from top to bottom by the stage-1 decoder, then the finished image.
    for part in pipeline.stream(0, seed=7, sampling=guided):
        print("finished" if part.finished else f"rows of pixels from {part.top}", tuple(part.images.shape))

    # Complete the upper half as every class.
    rows = pipeline.tokenizer.config.grid // 2
    for name, image in zip(names, pipeline.complete(again, rows, list(names), seed=1), strict=True):
        image.save(options.out / f"completed-{name.replace('/', '_')}.png")
    print(f"{len(list(options.out.glob('*.png')))} images in {options.out}/")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # an error that the user can fix
        sys.exit(str(error))
