"""Images to what the tokenizer leaves of them: an iterator of batches in, reconstructions by stage out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage


def reconstruct(
    tokenizer: Tokenizer, batches: Iterable[np.ndarray], stage: Stage, device: torch.device
) -> Iterator[np.ndarray]:
    """(B, 3, h, h) uint8 images -> (B, 3, h, h) float32 reconstructions in [0, 1] by the decoder of `stage`."""
    for images in batches:
        with torch.inference_mode():
            rebuilt = tokenizer.reconstruct(pixels.to_float(torch.from_numpy(images).to(device)), stage)
        yield rebuilt.cpu().numpy()
