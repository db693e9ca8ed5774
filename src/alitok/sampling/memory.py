"""Memory estimates for sampling: bytes per batch, and the largest batch that fits."""

from __future__ import annotations

from alitok.core.device import free_memory
from alitok.generator import Generator
from alitok.sampling.engine import NOISE_AHEAD, READ_AT_ONCE, Engine
from alitok.tokenizer import ConvolutionalDecoderConfig, Tokenizer

_USABLE = 0.95  # of the free memory
_LIVE = 12  # decoder-wide activations that are alive at a time, for each position
_LIVE_MAPS = 6  # of a convolutional decoder, with its channels at full resolution


def cache_bytes(engine: Engine, batch: int, *, guided: bool = True) -> int:
    """Of the key-value cache of a batch."""
    config = engine.generator.config
    rows = batch * (2 if guided else 1)
    return 2 * config.layers * rows * config.sequence_length * config.width * engine.cache_dtype.itemsize


def codes_bytes(engine: Engine, batch: int, *, guided: bool = True) -> int:
    """Of all that grows with a batch of codes: the cache, noise, logits, and activations of given codes."""
    config = engine.generator.config
    rows = batch * (2 if guided else 1)
    noise = batch * NOISE_AHEAD * config.codebook_size * (4 + 6 * 8)  # floats, and the words they are made from
    logits = 6 * rows * config.codebook_size * 4
    activations = 24 * rows * READ_AT_ONCE * config.width * 4
    scores = 3 * rows * config.heads * READ_AT_ONCE * config.sequence_length * 4
    return cache_bytes(engine, batch, guided=guided) + noise + logits + activations + scores


def decoder_bytes(tokenizer: Tokenizer) -> int:
    """Of decoding one image, beside the weights: activations and the image itself, roughly."""
    config, decoder = tokenizer.config, tokenizer.decoder().config
    image = 4 * 3 * config.image_size**2
    if isinstance(decoder, ConvolutionalDecoderConfig):
        return 4 * (_LIVE_MAPS * decoder.channels * config.image_size**2 + image)
    positions = config.grid**2 + decoder.extra_tokens + (config.prefix_length if decoder.reads_prefix else 0)
    return 4 * (_LIVE * positions * decoder.width + image)


def image_bytes(engine: Engine, tokenizer: Tokenizer, *, guided: bool) -> int:
    """Of one image in a batch whose codes are sampled and whose pixels are decoded all at once."""
    return codes_bytes(engine, 1, guided=guided) + decoder_bytes(tokenizer)


def room(generator: Generator, free: int) -> int:
    """Bytes left for a batch; kernels for a few rows and for many may each hold their own copy of the weights."""
    weights = sum(parameter.nbytes for parameter in generator.parameters())
    return max(0, int(_USABLE * free) - 2 * weights)


def most_images(engine: Engine, tokenizer: Tokenizer, *, guided: bool) -> int | None:
    """Largest batch that fits now, sampled and decoded all at once; None if the free memory is unknown."""
    free = free_memory(engine.device)
    return None if free is None else room(engine.generator, free) // image_bytes(engine, tokenizer, guided=guided)
