"""`alitok encode`: images to a code store, in one process, under torchrun, or as independent jobs."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from alitok.run.options import EncodeOptions


def encode(*, options: Annotated[EncodeOptions, Parameter(name="*")]) -> None:
    """Write the codes of all images of a source; a rerun resumes after the finished shards.

    Under torchrun the shards are distributed over the processes. Independent jobs divide them with --part 1/4,
    --part 2/4 and so on, in any order and at any time; the store is complete with the last of them.

    Args:
        options: how.
    """
    from alitok.run.encode import run_encode

    run_encode(options)
