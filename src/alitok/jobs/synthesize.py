"""Classes to pictures: the generator draws codes, the tokenizer's decoder draws pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.generator import Generator, SamplingConfig, engine
from alitok.generator.sampling import picture_uniforms
from alitok.tokenizer import Tokenizer


def synthesize(
    generator: Generator,
    tokenizer: Tokenizer,
    classes: Sequence[int],
    config: SamplingConfig,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Draw one picture per entry of `classes`.

    Picture i has its own random numbers, keyed by (seed, i), whatever the batch size.

    Args:
        generator: on `device`, in evaluation mode.
        tokenizer: likewise; its last decoder draws.
        classes: class numbers.
        config: guidance and the rest.
        seed: of the job.
        batch_size: pictures drawn at a time.
        device: where.

    Yields:
        (B, 3, h, h) uint8, in the order of `classes`.
    """
    length = generator.config.sequence_length
    for start in range(0, len(classes), batch_size):
        part = torch.tensor(classes[start : start + batch_size], device=device)
        uniforms = picture_uniforms(seed, range(start, start + len(part)), length)
        with torch.inference_mode():
            codes = engine.sample(generator, part, uniforms, config)
            drawn = tokenizer.decode(codes)
        yield pixels.to_uint8(drawn).cpu().numpy()
