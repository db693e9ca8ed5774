"""Images to codes, a batch at a time."""

from __future__ import annotations

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.tokenizer import Tokenizer


def codes_of(tokenizer: Tokenizer, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Images (B, 3, h, h) uint8 -> codes (B, T) int64; `tokenizer` is on `device` and in evaluation mode."""
    with torch.inference_mode():  # in float32: a rounded feature can have another nearest code
        return tokenizer.encode(pixels.to_float(torch.from_numpy(images).to(device))).cpu().numpy()
