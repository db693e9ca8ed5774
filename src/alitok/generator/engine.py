"""The fast sampler: a cache of fixed size, both guidance branches in one batch.

Same interface and same codes as `alitok.generator.oracle`.
"""

from __future__ import annotations

import torch

from alitok.generator.model import Generator
from alitok.generator.sampling import SamplingConfig, next_codes


@torch.inference_mode()
def sample(generator: Generator, classes: torch.Tensor, uniforms: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """Draw whole sequences; arguments and result are those of `oracle.sample`."""
    length, batch = generator.config.sequence_length, len(classes)
    uniforms = uniforms.to(classes.device)
    if config.guided:
        classes = torch.cat([classes, torch.full_like(classes, generator.null_class)])
    cache = generator.new_cache(len(classes))
    codes = torch.empty(batch, length, dtype=torch.int64, device=classes.device)
    tokens = generator.class_tokens(classes)
    for position in range(length):
        logits = generator.extend(tokens[:, None], cache)[:, 0]
        conditional = logits[:batch]
        unconditional = logits[batch:] if config.guided else None
        drawn = next_codes(conditional, unconditional, uniforms[:, position], position, length, config)
        codes[:, position] = drawn
        tokens = torch.cat([drawn, drawn]) if config.guided else drawn
    return codes
