"""Requests to images: the engine draws codes, the tokenizer's decoder draws pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch

from alitok.core.errors import AlitokError
from alitok.sampling import SampleRequest
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine


def synthesize(
    engine: Engine, decoder: PixelDecoder, requests: Iterable[SampleRequest], *, batch_size: int
) -> Iterator[np.ndarray]:
    """Draw one image per request; a GPU draws the pixels of a batch while it draws the codes of the next.

    An image is a function of its own request, whatever the batch size and whatever else is drawn.

    Args:
        engine: of the generator.
        decoder: of the tokenizer, on the same device.
        requests: taken as they are needed, so there may be any number.
        batch_size: images drawn at a time.

    Yields:
        (B, 3, h, h) uint8, in the order of the requests.

    Raises:
        AlitokError: a request that does not fit the generator, or a batch of none.
    """
    if batch_size < 1:
        raise AlitokError(f"batch_size must be at least 1, not {batch_size}.")
    remaining = iter(requests)
    batches = iter(lambda: list(islice(remaining, batch_size)), [])
    draw = _draw_beside if engine.device.type == "cuda" else _draw_between
    yield from draw(engine, decoder, batches)


def _draw_between(
    engine: Engine, decoder: PixelDecoder, batches: Iterable[list[SampleRequest]]
) -> Iterator[np.ndarray]:
    for batch in batches:
        yield decoder(engine.sample(batch)).cpu().numpy()


def _draw_beside(engine: Engine, decoder: PixelDecoder, batches: Iterable[list[SampleRequest]]) -> Iterator[np.ndarray]:
    """Pixels on a stream of their own: nothing waits for a batch before the codes of the next are under way."""
    stream = torch.cuda.Stream(engine.device)
    waiting: torch.Tensor | None = None
    for batch in batches:
        codes = engine.sample(batch)
        if waiting is not None:
            yield _fetch(waiting, stream)
        stream.wait_stream(torch.cuda.current_stream(engine.device))
        codes.record_stream(stream)
        with torch.cuda.stream(stream):
            waiting = decoder(codes)
    if waiting is not None:
        yield _fetch(waiting, stream)


def _fetch(images: torch.Tensor, stream: torch.cuda.Stream) -> np.ndarray:
    with torch.cuda.stream(stream):
        return images.cpu().numpy()
