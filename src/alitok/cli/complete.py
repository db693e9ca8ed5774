"""`alitok complete`: an image's first rows, continued by a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alitok.apps.sample.options import CompleteOptions


def complete(model: str, image: Path, /, *, options: Annotated[CompleteOptions, Parameter(name="*")]) -> None:
    """Keep the first rows of an image, generate the rest, and write a sheet of the completions.

    The sheet shows the image as it was cropped, its reconstruction by the tokenizer, and the completions.

    Args:
        model: a directory with a saved pipeline, or `owner/name` on the hub.
        image: an image file; resized and center-cropped as in training.
        options: how to continue it.
    """
    from alitok.apps.sample.complete import run_complete

    run_complete(model, image, options)
