"""How codes are drawn from logits: the settings of an image, and those of a batch that may mix them.

Pure functions of tensors; nothing waits for a device. Enters: `SampleRequest`s, then logits (B, V) of the conditional
and unconditional branch at a position. Leaves: codes (B,).
Shapes: B images, T codes per image, V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.sampling.guidance import guidance_scales, guide

_COLDEST = 1e-6  # logits divided by less may leave float32
GuidanceSchedule = Literal["constant", "linear", "cosine"]


@config
class SamplingConfig:
    """How codes are drawn.

    Attributes:
        guidance_scale: g of classifier-free guidance, reached at the schedule's end; 0 or 1 = no guidance.
        guidance_power: bends the cosine schedule; larger = guidance sets in later.
        guidance_schedule: g all along, a straight line from 1 to g, or the cosine from 1 to g.
        guidance_start, guidance_stop: the part of the sequence, as shares of its length, that is guided.
        soft_guidance: SoftCFG: the unconditional branch listens less to codes that were drawn with confidence.
        temperature: divides the logits; 0 = always the likeliest code.
        top_k: draw among the k likeliest codes; 0 = all.
        top_p: draw among the likeliest codes that together reach this probability; 1 = all.
        min_p: draw among codes at least this share as likely as the likeliest; 0 = all.
    """

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
        """Refuse values outside their ranges."""
        require_at_least(self, 0, "guidance_scale", "guidance_power", "temperature", "top_k")
        if not all(map(math.isfinite, (self.guidance_scale, self.guidance_power, self.temperature))):
            raise AlitokError("guidance_scale, guidance_power and temperature must be finite numbers")
        if 0 < self.temperature < _COLDEST:
            raise AlitokError(f"temperature must be 0 or at least {_COLDEST}, not {self.temperature}")
        if self.guidance_schedule not in ("constant", "linear", "cosine"):
            raise AlitokError(f"guidance_schedule must be constant, linear or cosine, not '{self.guidance_schedule}'")
        if not 0 <= self.guidance_start < self.guidance_stop <= 1:
            raise AlitokError(
                "guidance_start and guidance_stop must be shares of the sequence with 0 <= start < stop <= 1, "
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
class SampleRequest:
    """One image that is wanted.

    Attributes:
        label: class number in [0, classes]; the last means no class.
        seed: of the image's random numbers.
        index: number of the image in its job; images of one seed differ by it.
        sampling: guidance and filters.
        given: the first codes, where they are not to be drawn.
    """

    label: int
    seed: int = 0
    index: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    given: tuple[int, ...] = ()


@dataclass(frozen=True)
class RowSettings:
    """The settings of a batch as tensors, one row per image, so that a batch may mix them.

    Attributes:
        scales: (B, T) guidance scale at each position.
        temperature: (B, 1), 1 where greedy.
        greedy: (B, 1) bool, the likeliest code is taken.
        top_k: (B, 1) int64, V = all.
        top_p, min_p: (B, 1).
        soft: (B, 1) bool.
        given: (B, T) int64, -1 where the code is to be drawn.
        guided, filtered, softened, random: whether any row needs it.
        common: number of first codes that are given in every row.
    """

    scales: torch.Tensor
    temperature: torch.Tensor
    greedy: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    soft: torch.Tensor
    given: torch.Tensor
    guided: bool
    filtered: bool
    softened: bool
    random: bool
    common: int

    @classmethod
    def of(
        cls, requests: Sequence[SampleRequest], length: int, codebook_size: int, device: torch.device
    ) -> RowSettings:
        """The settings of these images of T = `length` codes.

        Raises:
            AlitokError: given codes that are too many or outside the codebook.
        """
        configs = [request.sampling for request in requests]
        given = torch.full((len(requests), length), -1, dtype=torch.int64)
        for row, request in enumerate(requests):
            _check_given(request.given, length, codebook_size)
            given[row, : len(request.given)] = torch.tensor(request.given, dtype=torch.int64)

        def column(values: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype)[:, None].to(device)

        return cls(
            scales=torch.tensor([_scales(config, length) for config in configs], dtype=torch.float32).to(device),
            temperature=column([config.temperature or 1.0 for config in configs]),
            greedy=column([config.temperature == 0 for config in configs], torch.bool),
            top_k=column([min(config.top_k or codebook_size, codebook_size) for config in configs], torch.int64),
            top_p=column([config.top_p for config in configs]),
            min_p=column([config.min_p for config in configs]),
            soft=column([config.soft_guidance and config.guided for config in configs], torch.bool),
            given=given.to(device),
            guided=any(config.guided for config in configs),
            filtered=any(config.top_k or config.top_p < 1 or config.min_p for config in configs),
            softened=any(config.soft_guidance and config.guided for config in configs),
            random=any(config.temperature > 0 for config in configs),
            common=min(len(request.given) for request in requests),
        )


def _check_given(given: tuple[int, ...], length: int, codebook_size: int) -> None:
    if len(given) > length:
        raise AlitokError(f"{len(given)} codes are given, but an image has {length}.")
    if given and not 0 <= min(given) <= max(given) < codebook_size:
        raise AlitokError(f"Given codes must be within 0 to {codebook_size - 1}.")


def _scales(config: SamplingConfig, length: int) -> list[float]:
    if not config.guided:
        return [1.0] * length
    return guidance_scales(
        length,
        scale=config.guidance_scale,
        power=config.guidance_power,
        schedule=config.guidance_schedule,
        interval=(config.guidance_start, config.guidance_stop),
    )


def next_codes(
    conditional: torch.Tensor,
    unconditional: torch.Tensor | None,
    scales: torch.Tensor,
    noise: torch.Tensor | None,
    rows: RowSettings,
) -> torch.Tensor:
    """Codes (B,) for one position.

    Args:
        conditional: logits (B, V) of the branch that knows the class.
        unconditional: those of the other; None where no row is guided.
        scales: (B, 1) guidance at this position.
        noise: Gumbel (B, V); None where every row takes the likeliest code.
        rows: the rest of the settings.
    """
    logits = conditional.float()
    if unconditional is not None:
        logits = guide(logits, unconditional.float(), scales)
    logits = logits / rows.temperature
    if rows.filtered:
        logits = keep_likely(logits, rows.top_k, rows.top_p, rows.min_p)
    if noise is not None:
        logits = torch.where(rows.greedy, logits, logits + noise)
    return logits.argmax(-1)


def keep_likely(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Set the logits (B, V) of codes that are not to be drawn to -inf; each row has its own limits (B, 1).

    First the k likeliest stay; of those the fewest that together reach the share `top_p`; of those the ones at least
    `min_p` times as likely as the likeliest. That one always stays, and so do codes exactly as likely as the last.
    """
    ordered = logits.sort(dim=-1, descending=True).values
    rank = torch.arange(logits.shape[-1], device=logits.device)
    probs = ordered.masked_fill(rank >= top_k, -math.inf).softmax(-1)
    before = probs.cumsum(-1) - probs
    # Rounding may leave the last sums below 1, so a limit of 1 is no limit.
    kept = (rank < top_k) & ((before < top_p) | (top_p >= 1)) & (probs >= min_p * probs[:, :1])
    last = ordered.gather(-1, kept.sum(-1, keepdim=True).clamp(min=1) - 1)
    return logits.masked_fill(logits < last, -math.inf)
