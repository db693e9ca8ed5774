"""`alitok eval`: metrics of samples and of reconstructions, each against its own reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from alitok.apps.evaluate.options import GenerationOptions, ReconstructionOptions, ReferenceOptions
from alitok.cli import typed_command

app = App(name="eval", help="Evaluate samples or reconstructions against real images, each with its own reference.")


@app.command
def generation(samples: str, /, *, options: Annotated[GenerationOptions, Parameter(name="*")]) -> None:
    """How much samples look like real images: gFID, sFID, Inception Score, precision, recall, density, coverage, KID.

    A model's images go straight into the feature network and are not saved. Features are saved in OUT: the same command
    resumes after an interruption, and another reference needs no new samples. On many GPUs or machines that share a
    disk, use torchrun: `torchrun --nproc-per-node 8 -m -- alitok eval generation ...`.

    Args:
        samples: a saved model, by its directory or its name on the hub; or finished samples: an npz file with arr_0, or
            a folder (or any other source) of square images of one size.
    """
    from alitok.apps.evaluate.generation import run_eval_generation

    run_eval_generation(samples, options, command=typed_command())


@app.command
def reconstruction(tokenizer: Path, /, *, options: Annotated[ReconstructionOptions, Parameter(name="*")]) -> None:
    """How close reconstructions are to their images: rFID, PSNR, SSIM, LPIPS, codebook use; stage 1 beside stage 2.

    Validation images are cropped as in training. Features are saved in OUT: the same command resumes after an
    interruption. Under torchrun the images are sharded across the processes.

    Args:
        tokenizer: a saved tokenizer, or a saved model with one.
    """
    from alitok.apps.evaluate.reconstruction import run_eval_reconstruction

    run_eval_reconstruction(tokenizer, options, command=typed_command())


@app.command
def reference(data: str, /, *, options: Annotated[ReferenceOptions, Parameter(name="*")]) -> None:
    """Save the statistics of real images to one file, a --reference of later evaluations.

    The file knows what it is for: statistics of training images are for generation, those of validation images for
    reconstruction, and neither is accepted for the other.

    Args:
        data: the real images.
    """
    from alitok.apps.evaluate.reference import run_eval_reference

    run_eval_reference(data, options)
