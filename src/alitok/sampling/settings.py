"""What users choose about sampling: settings, overrides of a model's own settings, and requests. Imports no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError

EnginePrecision = Literal["fp32", "bf16", "int8"]
GuidanceSchedule = Literal["constant", "linear", "cosine"]

_MIN_TEMPERATURE = 1e-6  # logits divided by less may overflow float32


@config
class SamplingConfig:
    """How codes are sampled. `SamplingOverrides` documents each field."""

    guidance_scale: float = 1.0
    guidance_power: float = 1.0
    guidance_schedule: GuidanceSchedule = "cosine"
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    soft_guidance: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Reject values outside their ranges."""
        require_at_least(self, 0, "guidance_scale", "guidance_power", "temperature", "top_k")
        if not all(map(math.isfinite, (self.guidance_scale, self.guidance_power, self.temperature))):
            raise AlitokError("guidance_scale, guidance_power and temperature must be finite numbers")
        if 0 < self.temperature < _MIN_TEMPERATURE:
            raise AlitokError(f"temperature must be 0 or at least {_MIN_TEMPERATURE}, not {self.temperature}")
        if self.guidance_schedule not in ("constant", "linear", "cosine"):
            raise AlitokError(f"guidance_schedule must be constant, linear or cosine, not '{self.guidance_schedule}'")
        if not 0 <= self.guidance_start < self.guidance_stop <= 1:
            raise AlitokError(
                "guidance_start and guidance_stop must be fractions of the sequence with 0 <= start < stop <= 1, "
                f"not {self.guidance_start} and {self.guidance_stop}"
            )
        if not 0 < self.top_p <= 1:
            raise AlitokError(f"top_p must be within (0, 1], not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise AlitokError(f"min_p must be within [0, 1], not {self.min_p}")

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch is needed at all."""
        return self.guidance_scale not in (0.0, 1.0)


@dataclass(frozen=True)
class SamplingOverrides:
    """Sampling settings that replace a model's own; None keeps the model's. Its fields are command-line options."""

    guidance_scale: float | None = None
    """strength of classifier-free guidance at the end of its schedule; 0 or 1 disables it"""

    guidance_power: float | None = None
    """bends the cosine schedule; larger = guidance sets in later"""

    guidance_schedule: GuidanceSchedule | None = None
    """how guidance grows over the sequence: constant, or from 1 to the scale along a line or a cosine"""

    guidance_start: float | None = None
    """fraction of the sequence at which guidance starts"""

    guidance_stop: float | None = None
    """fraction of the sequence at which guidance stops"""

    soft_guidance: bool | None = None
    """SoftCFG: the unconditional branch attends less to codes sampled with confidence"""

    temperature: float | None = None
    """divides the logits; 0 = always the most likely code"""

    top_k: int | None = None
    """sample among the k most likely codes; 0 = all"""

    top_p: float | None = None
    """sample among the most likely codes that together reach this probability; 1 = all"""

    min_p: float | None = None
    """sample among codes with at least this fraction of the largest probability; 0 = all"""

    def given(self) -> dict[str, Any]:
        """The settings that are not None, by name."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def apply_to(self, config: SamplingConfig) -> SamplingConfig:
        """`config` with these settings; AlitokError if one is out of range, or soft guidance is on without guidance."""
        try:
            chosen = replace(config, **self.given())
        except AlitokError as error:  # configs leave the full stop to the caller
            raise AlitokError(f"{error}.") from None
        if self.soft_guidance and not chosen.guided:
            raise AlitokError("soft_guidance needs guidance, which is off; set guidance_scale as well.")
        return chosen


@dataclass(frozen=True)
class SampleRequest:
    """One image to sample.

    Attributes:
        label: class number in [0, classes]; the last means no class.
        index: number of the image in its job; images of one seed differ by it.
        given: the first codes, where they are not to be sampled.
    """

    label: int
    seed: int = 0
    index: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    given: tuple[int, ...] = ()
