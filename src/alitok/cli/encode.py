"""`alitok encode`: images to stored codes, in one process, under torchrun, or as independent jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def encode(
    *,
    tokenizer: Path,
    data: str,
    out: Path,
    crops: Literal["centre", "flip", "ten"] = "centre",
    split: Literal["all", "train", "val"] = "all",
    part: str | None = None,
    batch_size: int = 256,
    workers: int = 0,
    fresh: Annotated[bool, Parameter(negative="")] = False,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    seed: int = 0,
) -> None:
    """Write the codes of all images of a source; run again, it continues behind the shards that are finished.

    Under torchrun the shards are shared out over the processes. Independent jobs share them out with --part 1/4,
    --part 2/4 and so on, in any order and at any time; the store is complete with the last of them.

    Args:
        tokenizer: a saved tokenizer, or a saved pair that has one.
        data: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        out: the store to write, a directory.
        crops: views of each image: centre; flip, also mirrored; ten, corners and centre at 1.1 x, also mirrored.
        split: which images: all, those for training, or the held-out ones.
        part: the share of independent job i of n, as i/n.
        batch_size: views encoded at a time.
        workers: processes that read images ahead; their number changes no code.
        fresh: throw away what stands at OUT, if it is a store or an unfinished one.
        device: where to encode.
        seed: decides which images are held out.
    """
    from alitok.run.encode import EncodeOptions, run_encode

    run_encode(
        EncodeOptions(
            tokenizer=tokenizer,
            data=data,
            out=out,
            crops=crops,
            split=split,
            part=part,
            batch_size=batch_size,
            workers=workers,
            fresh=fresh,
            device=device,
            seed=seed,
        )
    )
