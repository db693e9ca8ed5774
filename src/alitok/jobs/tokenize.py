"""Pictures to codes: an iterator of (pictures, labels) in, an iterator of (codes, labels) out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.tokenizer import Tokenizer

PictureBatch = tuple[np.ndarray, np.ndarray]  # (B, 3, h, h) uint8, (B,) int64
CodeBatch = tuple[np.ndarray, np.ndarray]  # (B, T) int64, (B,) int64


def tokenize(tokenizer: Tokenizer, batches: Iterable[PictureBatch], device: torch.device) -> Iterator[CodeBatch]:
    """Encode each batch; `tokenizer` is on `device` and in evaluation mode."""
    for pictures, labels in batches:
        with torch.inference_mode():  # in float32: a rounded feature can have another nearest code
            codes = tokenizer.encode(pixels.to_float(torch.from_numpy(pictures).to(device)))
        yield codes.cpu().numpy(), labels
