"""`alitok ablate`: what each part of the idea does, on your own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.cli.typed import typed_command

Arm = Literal["A", "CE", "B", "C", "D", "E", "F", "F-", "V"]
_Many = Parameter(negative="", consume_multiple=True)


def ablate(
    *,
    data: str,
    out: Path | None = None,
    preset: Literal["tiny", "small"] = "tiny",
    seeds: int = 1,
    arms: Annotated[list[Arm] | None, _Many] = None,
    codebook_sizes: Annotated[list[int] | None, _Many] = None,
    longer: Annotated[bool, Parameter(negative="")] = False,
    parallel: int | None = None,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    override: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None,
) -> None:
    """Train tokenizers that differ in one thing each, and a generator over the codes of each, and compare them.

    Arms: A bidirectional decoder; CE a causal encoder instead; B causal decoder; C with prefix codes; D with the
    auxiliary loss; E trained longer; F with a second decoder, F- one that does not read the prefix codes; V a plain
    convolutional tokenizer. All have one budget and one order of the data. A and B are also trained with half and twice
    the codebook, so that bits per image can be compared at equal fidelity.

    Run again, it continues where it stopped; more seeds, arms and codebooks are added to what is there.

    Args:
        data: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        out: where everything is written; ablations/NAME unless given.
        preset: tiny (minutes for a cell on a laptop) or small (about an hour for a cell on a GPU).
        seeds: trainings of each cell; three or more show the spread.
        arms: rows of the table; all but E unless given.
        codebook_sizes: of the comparison at equal fidelity; half and twice the preset's unless given.
        longer: add arm E.
        parallel: cells at a time; one for each GPU, or for each core, unless given.
        device: where to compute; auto takes the first of cuda, mps and cpu that is there.
        override: single numbers of the preset, such as `--set tokenizer_steps=3000 codebook_size=512`.
    """
    from alitok.apps.ablate.suite import AblationRequest, run_ablation
    from alitok.recipes.arms import USUAL_ARMS
    from alitok.run.originals import file_name

    request = AblationRequest(
        data=data,
        out=out or Path("ablations", file_name(data)),
        preset=preset,
        seeds=seeds,
        arms=USUAL_ARMS if arms is None else tuple(arms),
        codebook_sizes=None if codebook_sizes is None else tuple(codebook_sizes),
        longer=longer,
        overrides=tuple(override or ()),
        parallel=parallel,
        device=device,
    )
    run_ablation(request, command=typed_command())
