"""The slow sampler: no cache, everything read again at each step. Kept obvious, as the judge of the engine."""

from __future__ import annotations

import torch

from alitok.generator.model import Generator
from alitok.generator.sampling import SamplingConfig, next_codes


@torch.inference_mode()
def sample(generator: Generator, classes: torch.Tensor, uniforms: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """Draw whole sequences.

    Args:
        generator: in evaluation mode.
        classes: (B,) int64.
        uniforms: (B, T) numbers in [0, 1), from `picture_uniforms`.
        config: how to draw.

    Returns:
        Codes (B, T) int64.
    """
    length = generator.config.sequence_length
    uniforms = uniforms.to(classes.device)
    null = torch.full_like(classes, generator.null_class)
    codes = classes.new_empty(len(classes), 0)
    for position in range(length):
        conditional = generator(codes, classes)[:, -1]
        unconditional = generator(codes, null)[:, -1] if config.guided else None
        drawn = next_codes(conditional, unconditional, uniforms[:, position], position, length, config)
        codes = torch.cat([codes, drawn[:, None]], dim=1)
    return codes
