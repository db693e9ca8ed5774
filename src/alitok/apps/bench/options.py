"""The options of `alitok bench`. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from alitok.core.choices import DeviceName
from alitok.core.errors import AlitokError
from alitok.sampling.settings import EnginePrecision


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What `alitok bench` measures.

    Attributes:
        model: a saved pipeline, by its directory or its name on the hub; None = a preset with random weights.
        bandwidth_bytes: of the buffer on which bandwidth is measured; None = far more than caches hold.
        matmul_side: of the matrices whose product is timed; None = by the device.
    """

    model: Annotated[str | None, Parameter(parse=False)] = None

    preset: str | None = None
    """a generator with random weights instead of a model, by its name in `alitok models`, or B, L or XL for alitok-256;
    default: B"""

    batch_size: int = 1
    """images sampled at a time"""

    precision: EnginePrecision = "fp32"
    """of the generator; bf16 and int8 (on a CPU) read fewer bytes and are not exact"""

    rounds: int = 3
    """number of batches, of which the median counts"""

    threads: int | None = None
    """of the CPU; default: PyTorch's"""

    device: DeviceName = "auto"
    """where to compute"""

    guidance: bool = True
    """use the model's own guidance, which takes two rows per image"""

    soft_guidance: Annotated[bool, Parameter(negative="")] = False
    """use SoftCFG"""

    oracle: Annotated[bool, Parameter(negative="")] = False
    """also time a batch of the slow sampler without a cache, which may take minutes"""

    json: Annotated[bool, Parameter(negative="")] = False
    """print one JSON object instead of a table"""

    bandwidth_bytes: Annotated[int | None, Parameter(parse=False)] = None
    matmul_side: Annotated[int | None, Parameter(parse=False)] = None

    def __post_init__(self) -> None:
        """Reject conflicting options and numbers out of range."""
        if self.model is not None and self.preset is not None:
            raise AlitokError(f"Give a saved model ({self.model}) or a preset ({self.preset}), not both.")
        if self.soft_guidance and not self.guidance:
            raise AlitokError("Conflicting settings: soft guidance without guidance; leave one of the two options out.")
        for name in ("batch_size", "rounds", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise AlitokError(f"{name} must be at least 1, not {getattr(self, name)}.")
