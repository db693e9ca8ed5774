"""From logits to codes: guidance and its schedule, SoftCFG, temperature and filters, for batches that mix settings.

Shapes: B images, T codes per image, V codebook size. Nothing waits for a device.
Sources: the cosine-power schedule of AliTok; SoftCFG (ICLR 2026).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alitok.core.errors import AlitokError
from alitok.sampling.settings import SampleRequest, SamplingConfig


def guidance_scales(config: SamplingConfig, length: int) -> list[float]:
    """The scale at each of T = `length` positions s; 1 (no guidance) outside the interval.

    `constant`: g. `linear`: `1 + (g - 1) * s / T`. `cosine`: `1 + (g - 1) * (1 - cos(pi * (s / T)^power)) / 2`.
    """
    if not config.guided:
        return [1.0] * length
    power, start, stop = config.guidance_power, config.guidance_start, config.guidance_stop
    scales = []
    for done in (position / length for position in range(length)):
        bend = {
            "constant": 1.0,
            "linear": done,
            "cosine": (1 - math.cos(math.pi * done**power)) / 2,
        }[config.guidance_schedule]
        scales.append(1 + (config.guidance_scale - 1) * bend if start <= done < stop else 1.0)
    return scales


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`u + scale * (c - u)`, and c exactly where the scale is 1, whatever the rest of the batch does."""
    return torch.where(scale == 1, conditional, unconditional + scale * (conditional - unconditional))


def soft_weights(confidence: torch.Tensor) -> torch.Tensor:
    """SoftCFG with step normalisation: (B, n) weights `w_i = 1 - c_i / sum_j c_j` of the codes' unconditional values.

    `confidence` (B, n) is the conditional branch's largest probability when each code was sampled; 0 = not sampled yet.
    """
    return 1 - confidence / confidence.sum(-1, keepdim=True).clamp(min=1e-30)


@dataclass(frozen=True)
class RowSettings:
    """The settings of a batch as tensors, one row per image, so that a batch may mix them.

    Attributes:
        scales: (B, T) guidance scale at each position.
        temperature, top_p, min_p: (B, 1); temperature 1 where greedy.
        greedy, soft: (B, 1) bool; greedy takes the most likely code.
        top_k: (B, 1) int64, V = all.
        given: (B, T) int64, -1 where the code is to be sampled.
        guided, filtered, softened, random: whether any row needs it.
        common: number of leading codes that are given in every row.
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
        """The settings of images of `length` codes; AlitokError for given codes too many or outside the codebook."""
        configs = [request.sampling for request in requests]
        given = torch.full((len(requests), length), -1, dtype=torch.int64)
        for row, request in enumerate(requests):
            if len(request.given) > length:
                raise AlitokError(f"{len(request.given)} codes are given, but an image has {length}.")
            if request.given and not 0 <= min(request.given) <= max(request.given) < codebook_size:
                raise AlitokError(f"Given codes must be within 0 to {codebook_size - 1}.")
            given[row, : len(request.given)] = torch.tensor(request.given, dtype=torch.int64)

        def column(values: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype)[:, None].to(device)

        return cls(
            scales=torch.tensor([guidance_scales(config, length) for config in configs]).to(device),
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

    @property
    def rows(self) -> int:
        """R: two per image where any is guided."""
        return len(self.given) * (2 if self.guided else 1)

    @property
    def kind(self) -> tuple[int, bool, bool, bool, bool]:
        """What two batches must have in common to share buffers and graphs."""
        return len(self.given), self.guided, self.filtered, self.softened, self.random


def next_codes(
    conditional: torch.Tensor,
    unconditional: torch.Tensor | None,
    scales: torch.Tensor,
    noise: torch.Tensor | None,
    rows: RowSettings,
) -> torch.Tensor:
    """Codes (B,) for one position, from the logits (B, V) of both branches; None if no row is guided.

    `scales` (B, 1) is the guidance at this position, `noise` Gumbel (B, V); None if every row is greedy.
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
    """Set the logits (B, V) of filtered codes to -inf; each row has its own limits (B, 1).

    First the k most likely stay; of those the fewest that together reach probability `top_p`; of those the ones at
    least `min_p` times as likely as the most likely. That one always stays, and so do ties with the last.
    """
    ordered = logits.sort(dim=-1, descending=True).values
    rank = torch.arange(logits.shape[-1], device=logits.device)
    probs = ordered.masked_fill(rank >= top_k, -math.inf).softmax(-1)
    before = probs.cumsum(-1) - probs
    # Rounding may leave the last sums below 1, so 1 means no limit.
    kept = (rank < top_k) & ((before < top_p) | (top_p >= 1)) & (probs >= min_p * probs[:, :1])
    last = ordered.gather(-1, kept.sum(-1, keepdim=True).clamp(min=1) - 1)
    return logits.masked_fill(logits < last, -math.inf)
