"""Requests to images, whole or as strips of pixels while their codes are sampled; and the codes of given rows.

Shapes: B images, h image side, G grid side, K prefix, T = K + G * G codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.data.crops import centre_crop, to_array, to_rgb
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine
from alitok.sampling.settings import SampleRequest
from alitok.tokenizer import RowDecoder, Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


def synthesize(
    engine: Engine, decoder: PixelDecoder, requests: Iterable[SampleRequest], *, batch_size: int
) -> Iterator[np.ndarray]:
    """Images (B, 3, h, h) uint8 in the order of the requests; each depends on its own request only, not on its batch.

    A GPU decodes the pixels of a batch while it samples the codes of the next. Requests are consumed as needed. Raises
    AlitokError if a request does not fit the generator or the batch size is below 1.
    """
    if batch_size < 1:
        raise AlitokError(f"batch_size must be at least 1, not {batch_size}.")
    remaining = iter(requests)
    batches = iter(lambda: list(islice(remaining, batch_size)), [])
    if engine.device.type == "cuda":
        yield from _overlapped(engine, decoder, batches)
    else:
        for batch in batches:
            yield decoder(engine.sample(batch)).cpu().numpy()


def _overlapped(engine: Engine, decoder: PixelDecoder, batches: Iterable[list[SampleRequest]]) -> Iterator[np.ndarray]:
    """Pixels on a stream of their own: nothing waits for a batch before the codes of the next are under way."""
    stream = torch.cuda.Stream(engine.device)
    waiting: torch.Tensor | None = None

    def fetch(images: torch.Tensor) -> np.ndarray:
        with torch.cuda.stream(stream):
            return images.cpu().numpy()

    for batch in batches:
        codes = engine.sample(batch)
        if waiting is not None:
            yield fetch(waiting)
        stream.wait_stream(torch.cuda.current_stream(engine.device))
        codes.record_stream(stream)
        with torch.cuda.stream(stream):
            waiting = decoder(codes)
    if waiting is not None:
        yield fetch(waiting)


@dataclass(frozen=True)
class ImageRows:
    """The next part of a stream of images.

    Attributes:
        top: the first pixel row of `images` in the image.
        images: (B, 3, rows, h) uint8: a strip by the causal decoder, or finally the whole images by the last decoder.
        codes: (B, T) int64 with the whole images; None with a strip.
    """

    top: int
    images: np.ndarray
    codes: np.ndarray | None = None

    @property
    def finished(self) -> bool:
        """Whether these are the whole images."""
        return self.codes is not None


def stream_rows(
    engine: Engine, tokenizer: Tokenizer, decoder: PixelDecoder, requests: Sequence[SampleRequest]
) -> Iterator[ImageRows]:
    """One batch of images: G strips of patches, each as soon as its codes are sampled, then the finished images.

    Raises AlitokError if a request does not fit or the tokenizer has no causal stage-1 decoder.
    """
    rows = RowDecoder(tokenizer, len(requests))
    parts, top = [], 0
    for codes in engine.stream(requests):
        parts.append(codes)
        strip = pixels.to_uint8(rows.extend(codes)).cpu().numpy()
        if strip.shape[2]:
            yield ImageRows(top, strip)
            top += strip.shape[2]
    whole = torch.cat(parts, dim=1)
    yield ImageRows(0, decoder(whole).cpu().numpy(), whole.cpu().numpy())


def first_rows(tokenizer: Tokenizer, image: Image, rows: int) -> tuple[int, ...]:
    """The K prefix codes and `rows` * G codes of an image of any size and mode, cropped as in training; () for 0 rows.

    Raises AlitokError if `rows` is not within 0 to G.
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
