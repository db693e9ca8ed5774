"""Images shown while they are drawn, and images continued from given rows.

Enters: requests; an image of which the first rows are kept. Leaves: rows of pixels as their codes come, and at the end
the finished images; the codes of the kept rows.
Shapes: B images, h image side, f patch side, G grid side, K prefix, T = K + G * G codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.data.crops import centre_crop, to_array, to_rgb
from alitok.sampling import SampleRequest
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine
from alitok.tokenizer import RowDecoder, Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class DrawnRows:
    """What has been drawn since the last time.

    Attributes:
        top: the first pixel row of `images` in the image.
        images: (B, 3, rows, h) uint8: a strip by the causal decoder, or at the end the whole images by the last one.
        codes: (B, T) int64 with the whole images; None with a strip.
    """

    top: int
    images: np.ndarray
    codes: np.ndarray | None = None

    @property
    def finished(self) -> bool:
        """Whether these are the whole images."""
        return self.codes is not None


def draw_by_rows(
    engine: Engine, tokenizer: Tokenizer, decoder: PixelDecoder, requests: Sequence[SampleRequest]
) -> Iterator[DrawnRows]:
    """Draw images, one strip of patches after the other, then whole.

    Args:
        engine: of the generator.
        tokenizer: with a causal stage-1 decoder, on the engine's device.
        decoder: of the tokenizer.
        requests: one per image.

    Yields:
        G strips, each as soon as its codes are there, then the finished images.

    Raises:
        AlitokError: a request that does not fit, or a tokenizer without a causal decoder.
    """
    rows = RowDecoder(tokenizer, len(requests))
    parts, top = [], 0
    for codes in engine.stream(requests):
        parts.append(codes)
        strip = pixels.to_uint8(rows.extend(codes)).cpu().numpy()
        if strip.shape[2]:
            yield DrawnRows(top, strip)
            top += strip.shape[2]
    whole = torch.cat(parts, dim=1)
    yield DrawnRows(0, decoder(whole).cpu().numpy(), whole.cpu().numpy())


def first_rows(tokenizer: Tokenizer, image: Image, rows: int) -> tuple[int, ...]:
    """The codes that stand for the first rows of patches of an image: its K prefix codes, then `rows` * G.

    Args:
        tokenizer: encodes the image, resized and cropped about its centre as for training.
        image: of any size and mode.
        rows: rows of patches that are kept, 0 to G. With none, the prefix is not kept either.

    Raises:
        AlitokError: `rows` is out of range.
    """
    config = tokenizer.config
    if not 0 <= rows <= config.grid:
        raise AlitokError(f"rows must be within 0 to {config.grid}, the rows of patches of an image, not {rows}.")
    if not rows:
        return ()
    cropped = torch.from_numpy(to_array(centre_crop(to_rgb(image), config.image_size)))
    device = next(tokenizer.parameters()).device
    with torch.inference_mode():
        codes = tokenizer.encode(pixels.to_float(cropped)[None].to(device))[0]
    return tuple(codes[: config.prefix_length + rows * config.grid].tolist())
