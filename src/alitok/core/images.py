"""The only place for pixel ranges, PNG bytes and grids: models see float (B, 3, h, w) in [0, 1], files hold uint8."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels of any shape -> float32 in [0, 1]."""
    import torch

    return images.to(torch.float32) / 255


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float pixels of any shape, nominally in [0, 1] -> uint8, clamped and rounded to the nearest."""
    import torch

    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def grid(images: np.ndarray, columns: int, pad: int = 1) -> np.ndarray:
    """Rows of (N, 3, h, w) uint8, `pad` white px around -> (3, rows * (h + pad) + pad, columns * (w + pad) + pad)."""
    n, c, h, w = images.shape
    rows = math.ceil(n / columns)
    sheet = np.full((c, rows * (h + pad) + pad, columns * (w + pad) + pad), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + pad) + pad, (i % columns) * (w + pad) + pad
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def to_pil(image: np.ndarray, scale: int = 1) -> Image:
    """(3, h, w) uint8 -> an RGB Pillow image, each pixel enlarged to `scale` x `scale`."""
    from PIL import Image

    enlarged = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return enlarged.resize((enlarged.width * scale, enlarged.height * scale), Image.Resampling.NEAREST)


def png_bytes(image: np.ndarray, scale: int = 1) -> bytes:
    """(3, h, w) uint8 -> the bytes of a PNG file, each pixel enlarged to `scale` x `scale`."""
    buffer = io.BytesIO()
    to_pil(image, scale).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
