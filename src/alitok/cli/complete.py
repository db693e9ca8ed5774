"""`alitok complete`: an image's first rows, continued by a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.cli.sample import AS_THE_MODEL_SAYS, SamplingFlags


def complete(
    model: str,
    image: Path,
    /,
    *,
    rows: int,
    out: Path,
    class_: Annotated[str | None, Parameter(name="--class")] = None,
    count: int = 6,
    seed: int = 0,
    batch_size: int = 64,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    sampling: SamplingFlags = AS_THE_MODEL_SAYS,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
) -> None:
    """Keep the first rows of an image, draw the rest, and write all on a sheet.

    The sheet shows the image as it was cropped, what the tokenizer makes of all of it, and the completions.

    Args:
        model: a directory with a saved pair, or `owner/name` on the hub.
        image: an image file; resized and cropped about its centre as for training.
        rows: rows of patches that are kept, from 0 to all of them.
        out: the PNG to write.
        class_: what the image goes on as, a name or a number; unless given, the class that the image's folder is
            named after.
        count: completions.
        seed: of their random numbers.
        batch_size: completions drawn at a time.
        precision: of the generator: bf16 and int8 (on a CPU) are faster and not exact.
        sampling: how codes are drawn.
        device: where to draw.
    """
    from alitok.apps.sample.complete import CompleteOptions, run_complete

    run_complete(
        CompleteOptions(
            model=model,
            image=image,
            rows=rows,
            out=out,
            class_name=class_,
            count=count,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            sampling=sampling.given(),
            device=device,
        )
    )
