"""The options of `alitok ablate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.recipes.arms import USUAL_ARMS, ArmName

_LIST = Parameter(negative="", consume_multiple=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """What to train and compare."""

    data: str
    """`digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`."""
    out: Path | None = None
    """Directory of the ablation; ablations/NAME unless given."""
    preset: Literal["tiny", "small"] = "tiny"
    """tiny: minutes per cell on a laptop; small: about an hour per cell on a GPU."""
    seeds: int = 1
    """Trainings of each cell; three or more show the seed variance."""
    arms: Annotated[tuple[ArmName, ...], _LIST] = USUAL_ARMS
    """Rows of the table; arms whose codes they share are added."""
    codebook_sizes: Annotated[tuple[int, ...] | None, _LIST] = None
    """For arms A and B in the comparison at equal PSNR; half and twice the preset's unless given."""
    longer: Annotated[bool, Parameter(negative="")] = False
    """Add arm E."""
    parallel: int | None = None
    """Cells trained at the same time; one per GPU, or per CPU core, unless given."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto takes the first available of cuda, mps and cpu."""
    overrides: Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=True)] = ()
    """Single values of the preset, such as `--set tokenizer_steps=3000 codebook_size=512`."""
