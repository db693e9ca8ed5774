"""`alitok train`: one stage of a run, in one process or under torchrun."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.run.options import TrainOptions


def train(
    stage: Literal["stage1", "stage2", "generator"], /, *, options: Annotated[TrainOptions, Parameter(name="*")]
) -> None:
    """Train one stage, all its phases in one go; a rerun resumes.

    All stages of a run share OUT: later ones take data and recipe from its run.toml. On several GPUs or machines, start
    it with torchrun: `torchrun --nproc-per-node 8 -m alitok train stage1 ...`. SIGTERM saves a checkpoint and exits
    with 0; torchrun passes it on and exits with 1, but with 0 if a process below it gets the signal instead:
    `pkill -TERM -P PID`.

    Args:
        stage: stage1 (encoder, codebook, causal decoder), stage2 (bidirectional decoder), or generator.
        options: how.
    """
    from alitok.run.train import run_training

    run_training(stage, options)
