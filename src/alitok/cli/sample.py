"""`alitok sample`: many images of a saved model, in one process or under torchrun."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from alitok.apps.sample.options import SampleOptions


def sample(model: str, /, *, options: Annotated[SampleOptions, Parameter(name="*")]) -> None:
    """Generate many images; a rerun generates what is missing.

    Classes take turns, so that any prefix of a job is balanced: image i has class i % C of C classes. An image is
    a function of its number, the seed, the model and the settings: neither batch size nor number of processes nor
    interruptions change it (bf16 and int8 round differently in other batches and, on a CPU, with each start). On many
    GPUs or machines that share a disk, use torchrun: `torchrun --nproc-per-node 8 -m -- alitok sample ...`.

    Args:
        model: a directory with a saved pipeline, or `owner/name` on the hub.
        options: what to generate.
    """
    from alitok.apps.sample.job import run_sample

    run_sample(model, options)
