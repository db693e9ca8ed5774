"""Floating-point operations of one forward pass, by formula from the configuration.

A multiply-add counts as two. Norms, activations, softmax and additions are left out, as in the model FLOPs that
utilisation (MFU) is stated in; a training step takes three times a forward pass. Attention counts all pairs of
positions, masked or not.

Shapes: L positions, D width, E inner width of the MLP.
"""

from __future__ import annotations

from alitok.generator import GeneratorConfig
from alitok.nn.blocks import swiglu_width
from alitok.tokenizer import DecoderConfig, TokenizerConfig


def _blocks(layers: int, width: int, length: int, mlp_weights: int) -> int:
    """`layers` blocks over L positions: four D x D projections, the MLP's weights, and two products of L x L x D."""
    projections = 2 * length * (4 * width * width + mlp_weights)
    attention = 2 * 2 * length * length * width
    return layers * (projections + attention)


def _vit(layers: int, width: int, length: int) -> int:
    return _blocks(layers, width, length, 8 * width * width)


def encoder_flops(config: TokenizerConfig) -> int:
    """Picture to codes: patches, blocks, features, and distances to the codebook."""
    width, cells, codes = config.encoder.width, config.grid**2, config.sequence_length
    patches = 2 * cells * width * 3 * config.patch_size**2
    features = 2 * codes * width * config.code_width
    distances = 2 * codes * config.codebook_size * config.code_width
    return patches + _vit(config.encoder.layers, width, cells + codes) + features + distances


def decoder_flops(config: TokenizerConfig, decoder: DecoderConfig) -> int:
    """Codes to picture, and to the prefix strip where there is a head for it."""
    cells = config.grid**2
    read = cells + (config.prefix_length if decoder.reads_prefix else 0)
    drawn = cells + (config.prefix_length if decoder.prefix_head else 0)
    embedding = 2 * read * config.code_width * decoder.width
    pixels = 2 * drawn * 3 * config.patch_size**2 * (decoder.width + 3)  # the head, then the 3 -> 3 convolution
    return embedding + _vit(decoder.layers, decoder.width, read + decoder.extra_tokens) + pixels


def generator_flops(config: GeneratorConfig) -> int:
    """One whole sequence in parallel, as in training: the class and all codes but the last."""
    length, width = config.sequence_length, config.width
    blocks = _blocks(config.layers, width, length, 3 * width * swiglu_width(width))
    return blocks + 2 * length * width * config.codebook_size
