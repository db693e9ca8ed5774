"""How many images can be drawn at a time: enters the free memory, leaves a number."""

from __future__ import annotations

from alitok.core.device import free_memory
from alitok.generator import Generator
from alitok.sampling.engine import Engine
from alitok.tokenizer import ConvolutionalDecoderConfig, Tokenizer

_SPARE = 0.95  # of the free memory that a batch may take up
_LIVE = 12  # activations as wide as the decoder that are held at a time, for each position
_LIVE_MAPS = 6  # of a convolutional decoder, with its channels at full resolution


def decoder_bytes(tokenizer: Tokenizer) -> int:
    """About the memory that decoding one image takes beside the weights: activations, and the image itself."""
    config, decoder = tokenizer.config, tokenizer.decoder().config
    image = 4 * 3 * config.image_size**2
    if isinstance(decoder, ConvolutionalDecoderConfig):
        return 4 * (_LIVE_MAPS * decoder.channels * config.image_size**2 + image)
    positions = config.grid**2 + decoder.extra_tokens + (config.prefix_length if decoder.reads_prefix else 0)
    return 4 * (_LIVE * positions * decoder.width + image)


def room(generator: Generator, free: int) -> int:
    """Bytes left for a batch; kernels for a few rows and for many may each hold the weights in a form of their own."""
    weights = sum(parameter.nbytes for parameter in generator.parameters())
    return max(0, int(_SPARE * free) - 2 * weights)


def image_bytes(engine: Engine, tokenizer: Tokenizer, *, guided: bool) -> int:
    """Of one image of a batch whose codes are drawn and whose pixels are decoded all at a time."""
    return engine.batch_bytes(1, guided=guided) + decoder_bytes(tokenizer)


def most_images(engine: Engine, tokenizer: Tokenizer, *, guided: bool) -> int | None:
    """How many images there is memory for now, drawn and decoded at a time; None where the system does not tell."""
    free = free_memory(engine.device)
    return None if free is None else room(engine.generator, free) // image_bytes(engine, tokenizer, guided=guided)
