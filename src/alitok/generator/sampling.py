"""Drawing codes from logits: guidance, temperature, top-k, top-p, and randomness that belongs to the picture.

Pure functions. Enters: logits (B, V) of the conditional and unconditional branch, one uniform number per row.
Leaves: codes (B,). Every picture has its own numbers, keyed by (seed, picture), so a picture does not depend on the
batch or the process it is drawn in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError


@config
class SamplingConfig:
    """How codes are drawn.

    Attributes:
        guidance_scale: g of the cosine-power schedule; 0 or 1 = no guidance.
        guidance_power: bends the schedule; larger = guidance sets in later.
        temperature: divides the logits; 0 = always the likeliest code.
        top_k: draw among the k likeliest codes; 0 = all.
        top_p: draw among the likeliest codes that together reach this probability; 1 = all.
    """

    guidance_scale: float = 1.0
    guidance_power: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_at_least(self, 0, "guidance_scale", "guidance_power", "temperature", "top_k")
        if not all(map(math.isfinite, (self.guidance_scale, self.guidance_power, self.temperature))):
            raise AlitokError("guidance_scale, guidance_power and temperature must be finite numbers")
        if not 0 < self.top_p <= 1:
            raise AlitokError(f"top_p must be within (0, 1], not {self.top_p}")

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch is needed at all."""
        return self.guidance_scale not in (0.0, 1.0)


def guidance_scale_at(position: int, length: int, config: SamplingConfig) -> float:
    """The cosine-power schedule: `1 + (g - 1) * (1 - cos(pi * (s / T)^power)) / 2` at position s of T."""
    phase = math.pi * (position / length) ** config.guidance_power
    return 1 + (config.guidance_scale - 1) * (1 - math.cos(phase)) / 2


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance: `u + scale * (c - u)`."""
    return unconditional + scale * (conditional - unconditional)


def probabilities(logits: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """Logits (B, V) -> probabilities (B, V) in float32 after temperature (> 0), top-k and top-p."""
    logits = logits.float() / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        floor = logits.topk(config.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -math.inf)
    probs = logits.softmax(-1)
    if config.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        # A code stays when those before it do not reach top_p yet; so the likeliest always stays.
        keep = ordered.cumsum(-1) - ordered < config.top_p
        probs = torch.zeros_like(probs).scatter(-1, order, ordered * keep)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def draw(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF draw: probabilities (B, V) and numbers in [0, 1) (B,) -> codes (B,) int64."""
    precise = torch.float32 if probs.device.type == "mps" else torch.float64  # mps has no float64
    cumulative = probs.to(precise).cumsum(-1)
    # Scaling by the total keeps the target below it, so rounding never lands on a code of probability zero.
    target = uniform.to(precise)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=probs.shape[-1] - 1)


def next_codes(
    conditional: torch.Tensor,
    unconditional: torch.Tensor | None,
    uniform: torch.Tensor,
    position: int,
    length: int,
    config: SamplingConfig,
) -> torch.Tensor:
    """Codes (B,) for one position from the branches' logits (B, V) and one number per row (B,)."""
    logits = conditional.float()
    if unconditional is not None:
        logits = guide(logits, unconditional.float(), guidance_scale_at(position, length, config))
    if config.temperature == 0:
        return logits.argmax(-1)
    return draw(probabilities(logits, config), uniform)


def picture_uniforms(seed: int, pictures: Iterable[int], length: int) -> torch.Tensor:
    """Numbers in [0, 1) for the draws of each picture: (len(pictures), length) float32.

    Row i depends on (seed, pictures[i]) alone; Philox is counter-based, so no picture needs another's numbers.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=[seed % 2**64, picture])).random(length, dtype=np.float32)
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(rows))
