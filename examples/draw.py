"""Draw images: classes, seeds and settings mixed in one batch, row by row while they are drawn, and continued.

    python examples/draw.py runs/demo/model --out drawn          # seconds on a CPU for a model of 16-pixel digits

An image is a function of its class, settings and seed alone, whatever is drawn beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import alitok
from alitok.core.errors import AlitokError


def main() -> None:
    """Draw the same model's images in every way there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory with a saved pair, or owner/name on the hub")
    parser.add_argument("--out", type=Path, default=Path("drawn"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipeline = alitok.Pipeline.from_pretrained(options.model)
    names = pipeline.generator.class_names

    # One image for each class, numbers or names; one seed for all.
    for name, image in zip(names, pipeline(list(names), seed=0), strict=True):
        image.save(options.out / f"{name.replace('/', '_')}.png")

    # One class three times: each image with a seed and settings of its own.
    plain = alitok.SamplingConfig()
    sure = alitok.SamplingConfig(guidance_scale=4.0, top_k=20)
    likeliest = alitok.SamplingConfig(temperature=0.0)
    mixed = pipeline([0, 0, 0], seed=[7, 7, 8], sampling=[plain, sure, likeliest])
    again = pipeline(0, seed=7, sampling=sure)[0]
    assert np.array_equal(np.asarray(mixed[1]), np.asarray(again))  # alone or among others: the same pixels
    for number, image in enumerate(mixed):
        image.save(options.out / f"mixed-{number}.png")

    # Row by row: strips from top to bottom by the causal decoder, then the finished image.
    for drawn in pipeline.stream(0, seed=7, sampling=sure):
        print("finished" if drawn.finished else f"rows of pixels from {drawn.top}", tuple(drawn.images.shape))

    # Keep the upper half and go on as every class.
    kept = pipeline.tokenizer.config.grid // 2
    for name, image in zip(names, pipeline.complete(again, kept, list(names), seed=1), strict=True):
        image.save(options.out / f"continued-{name.replace('/', '_')}.png")
    print(f"{len(list(options.out.glob('*.png')))} images in {options.out}/")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # what its reader can mend, in a sentence
        sys.exit(str(error))
