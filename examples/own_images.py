"""Your own source of images: a class with four methods and a few attributes, and the whole training runs on it.

    python examples/own_images.py --out runs/shapes               # 2,000 synthetic shapes; three minutes on two cores
    python examples/own_images.py --out runs/shapes --steps 50    # one minute

Write one for images in a database, a simulator or a custom format. Folders, tar archives, tables and hub data sets need
none of this: `docs/data.md`.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console

from alitok.core.distributed import join
from alitok.core.errors import AlitokError
from alitok.data.split import split_images
from alitok.recipes.presets import RECIPES
from alitok.run.resolve import altered
from alitok.run.run import Run, settings
from alitok.run.rundir import RunDir


class Shapes:
    """Circles and squares of random color, position and size; image `index` is always the same."""

    name, classes = "shapes", ("circle", "square")
    val = groups = None  # val: a tenth of the images; groups: read in any order
    left_out = notes = ()

    def __init__(self, count: int) -> None:
        self.labels = np.arange(count) % len(self.classes)
        self.contents = f"shapes, {count}"  # a resumed run checks that the images are the same

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """The stable name of an image."""
        return f"{self.classes[self.labels[index]]}/{index:06}"

    def encoded(self, index: int) -> bytes:
        """An image file in any format that Pillow reads."""
        rng = np.random.default_rng(index)
        image = Image.new("RGB", (24, 24), tuple(rng.integers(0, 100, 3).tolist()))
        left, top, side = rng.integers(1, 8), rng.integers(1, 8), rng.integers(8, 16)
        draw = ImageDraw.Draw(image)
        shape = (draw.ellipse, draw.rectangle)[self.labels[index]]
        shape((left, top, left + side, top + side), fill=tuple(rng.integers(120, 256, 3).tolist()))
        file = io.BytesIO()
        image.save(file, "png")
        return file.getvalue()


def main() -> None:
    """Train tokenizer and generator, and sample both classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--steps", type=int, help="of each training; by default the recipe's")
    parser.add_argument("--set", nargs="*", default=[])
    options = parser.parse_args()
    few = [] if options.steps is None else [f"phases.main.{n}" for n in (f"steps={options.steps}", "warmup_steps=0")]
    few = [f"{training}.{key}" for training in ("stage1", "stage2", "generator") for key in few]
    recipe = altered(RECIPES["digits"], overrides=(*few, *options.set))
    splits = split_images(Shapes(options.count), "shapes", recipe.tokenizer.image_size)
    with join() as world:
        directory = RunDir(options.out, settings(recipe, splits, 0), console=Console(), world=world)
        run = Run(recipe, splits, world, directory, 0)
        for step in ("check", "stage1", "encode", "generator", "stage2", "pipeline"):
            run.step(step)
        for name, image in zip(Shapes.classes, run.load_pipeline()(list(Shapes.classes), seed=0), strict=True):
            image.save(options.out / f"{name}.png")
    print(f"Done; {options.out / 'model'} generates {' and '.join(Shapes.classes)}.")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # an error that the user can fix
        sys.exit(str(error))
