"""Pictures to codes: an iterator of (pictures, labels) in, or a whole source; an iterator of (codes, labels) out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.data.crops import CropRecipe
from alitok.data.source import ImageSource, view_batches
from alitok.tokenizer import Tokenizer

PictureBatch = tuple[np.ndarray, np.ndarray]  # (B, 3, h, h) uint8, (B,) int64
CodeBatch = tuple[np.ndarray, np.ndarray]  # (B, T) int64, (B,) int64


def codes_of(tokenizer: Tokenizer, pictures: np.ndarray, device: torch.device) -> np.ndarray:
    """Pictures (B, 3, h, h) uint8 -> codes (B, T) int64; `tokenizer` is on `device` and in evaluation mode."""
    with torch.inference_mode():  # in float32: a rounded feature can have another nearest code
        return tokenizer.encode(pixels.to_float(torch.from_numpy(pictures).to(device))).cpu().numpy()


def tokenize(tokenizer: Tokenizer, batches: Iterable[PictureBatch], device: torch.device) -> Iterator[CodeBatch]:
    """Encode each batch; `tokenizer` is on `device` and in evaluation mode."""
    for pictures, labels in batches:
        yield codes_of(tokenizer, pictures, device), labels


def encode_source(
    tokenizer: Tokenizer, source: ImageSource, recipe: CropRecipe, device: torch.device, batch_size: int = 256
) -> Iterator[CodeBatch]:
    """Encode all views of all pictures, each from its own pixels.

    The rows are ordered as `alitok.data.codes.write_codes` wants them for `crops=crops_per_picture(source, recipe)`.

    Args:
        tokenizer: on `device` and in evaluation mode.
        source: the pictures.
        recipe: the views of each.
        device: where to encode.
        batch_size: views at a time.

    Raises:
        AlitokError: while iterating, a picture cannot be read.
    """
    return tokenize(tokenizer, view_batches(source, recipe, batch_size), device)
