"""`alitok probe`: which patch of an image moves which code, of any tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from alitok.cli.typed import typed_command


def probe(
    *,
    tokenizer: str,
    data: str,
    out: Path | None = None,
    generator: str | None = None,
    images: int | None = None,
    per_place: int | None = None,
    image_size: int | None = None,
    grid: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
) -> None:
    """Map how codes depend on the image, and on one another: what of it a left-to-right generator cannot know yet.

    Patches of validation images are replaced one at a time, and the codes that change are counted; codes are replaced,
    and the patches that change are measured; codes are guessed from those before them. OUT gets probe.json, maps.npz,
    influence.png, reach.png and report.html. See docs/probe.md.

    Args:
        tokenizer: a saved tokenizer or pair, by its directory or its name on the hub; or package.module:name, an object
            with encode and decode, or a class or function that gives one. That module is imported: its code is run.
        data: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        out: a directory, new or of an earlier probe of the same; runs/probe-TOKENIZER-DATA unless given, with
            -generator behind it for a given generator. A tokenizer in runs/demo/model is called demo.
        generator: a saved generator or pair that guesses the codes, told the class of each image; unless given, a
            small one is trained on the codes of training images.
        images: validation images that are disturbed; 128, or all if they are fewer, unless given.
        per_place: images in which each patch, and each code, is replaced; all of them for up to 100 patches and 16
            for more, unless given.
        image_size: pixels a side, of a tokenizer from a module that does not say it itself.
        grid: patches a side, likewise; codes beyond them are its prefix. Unless given, all codes are a square.
        seed: decides which images are held out, where the data does not, and all that is drawn.
        batch_size: images in one call of the tokenizer.
        device: where to compute.
    """
    from alitok.apps.probe.probe import ProbeOptions, run_probe

    run_probe(
        ProbeOptions(
            tokenizer=tokenizer,
            data=data,
            out=out,
            generator=generator,
            images=images,
            per_place=per_place,
            image_size=image_size,
            grid=grid,
            seed=seed,
            batch_size=batch_size,
            device=device,
            command=typed_command(),
        )
    )
