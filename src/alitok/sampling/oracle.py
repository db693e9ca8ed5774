"""The slow, obvious sampler without a cache, which the engine is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alitok.generator.model import Generator
from alitok.sampling.guidance import RowSettings, next_codes, soft_weights
from alitok.sampling.noise import ImageNoise
from alitok.sampling.settings import SampleRequest


@torch.inference_mode()
def sample(generator: Generator, requests: Sequence[SampleRequest]) -> torch.Tensor:
    """Whole sequences (B, T) int64, on the device of a generator in evaluation mode."""
    config, device = generator.config, generator.embeddings.weight.device
    length, size = config.sequence_length, config.codebook_size
    rows = RowSettings.of(requests, length, size, device)
    noise = ImageNoise([(request.seed, request.index) for request in requests], device)
    classes = torch.tensor([request.label for request in requests], device=device)
    null = torch.full_like(classes, generator.null_class)
    start = 0 if rows.softened else rows.common  # SoftCFG needs the model's confidence in given codes, too
    codes = rows.given[:, :start]
    confidence = torch.empty(len(requests), 0, device=device)
    for position in range(start, length):
        conditional = generator(codes, classes)[:, -1]
        weights = _value_weights(confidence, rows.soft) if rows.softened else None
        unconditional = generator(codes, null, weights)[:, -1] if rows.guided else None
        gumbel = noise.gumbel(position, 1, size)[:, 0]
        chosen = next_codes(conditional, unconditional, rows.scales[:, position, None], gumbel, rows)
        given = rows.given[:, position]
        codes = torch.cat([codes, torch.where(given >= 0, given, chosen)[:, None]], dim=1)
        sure = conditional.float().softmax(-1).amax(-1, keepdim=True)
        confidence = torch.cat([confidence, sure], dim=1)
    return codes


def _value_weights(confidence: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """(B, n + 1, n + 1): weights of the class token's and n codes' values, seen from each of them.

    Code i is at position i + 1; position q sees the weights from when the codes up to q were sampled. Later positions
    are masked anyway.
    """
    batch, count = confidence.shape
    weights = torch.ones(batch, count + 1, count + 1, device=confidence.device)
    for seen_from in range(1, count + 1):
        weights[:, seen_from, 1 : seen_from + 1] = soft_weights(confidence[:, :seen_from])
    return torch.where(soft[:, :, None], weights, 1.0)
