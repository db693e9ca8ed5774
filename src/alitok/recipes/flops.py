"""FLOPs of one image in a forward pass, a training step and code-by-code sampling; bytes per sampling step.

A multiply-add counts as two operations. Norms, activations, softmax and additions are left out, as in the model FLOPs
of MFU. The backward pass takes twice the forward pass, for the gradients of inputs and of weights. Attention counts all
pairs of positions, masked or not; in sampling those attended to. Shapes: L positions, D width, C channels.
"""

from __future__ import annotations

from alitok.generator import GeneratorConfig
from alitok.nn.blocks import swiglu_width
from alitok.sampling.settings import EnginePrecision
from alitok.tokenizer import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig, DecoderConfig, TokenizerConfig
from alitok.tokenizer.convolutional import widths
from alitok.tokenizer.model import AnyDecoderConfig, Stage

_WEIGHT_BYTES: dict[EnginePrecision, int] = {"fp32": 4, "bf16": 2, "int8": 1}


def _blocks(layers: int, width: int, length: int, mlp_weights: int) -> int:
    """`layers` blocks over L positions: four D x D projections, the MLP's weights, and two products of L x L x D."""
    projections = 2 * length * (4 * width * width + mlp_weights)
    return layers * (projections + 2 * 2 * length * length * width)


def _vit(layers: int, width: int, length: int) -> int:
    return _blocks(layers, width, length, 8 * width * width)


def _convolution(before: int, after: int, side: int) -> int:
    """A 3 x 3 convolution from C to C' channels that leaves `side` x `side` pixels."""
    return 2 * 3 * 3 * before * after * side**2


def _levels(config: TokenizerConfig, part: ConvolutionalEncoderConfig | ConvolutionalDecoderConfig) -> int:
    sizes = widths(part.channels, config.patch_size)
    sides = [config.image_size >> halvings for halvings in range(len(sizes))]
    blocks = part.blocks * 2 * sum(map(_convolution, sizes, sizes, sides))
    down = isinstance(part, ConvolutionalEncoderConfig)
    return blocks + sum(map(_convolution, sizes, sizes[1:], sides[1:] if down else sides))


def encoder_flops(config: TokenizerConfig) -> int:
    """Image to codes: patches, blocks, features, and distances to the codebook."""
    encoder, codes = config.encoder, config.sequence_length
    if isinstance(encoder, ConvolutionalEncoderConfig):
        width, inner = widths(encoder.channels, config.patch_size)[-1], _levels(config, encoder)
    else:
        width, inner = encoder.width, _vit(encoder.layers, encoder.width, config.grid**2 + codes)
    return _patches(config) + inner + 2 * codes * width * config.code_width + _distances(config)


def _patches(config: TokenizerConfig) -> int:
    """The encoder's first layer."""
    if isinstance(config.encoder, ConvolutionalEncoderConfig):
        return _convolution(3, config.encoder.channels, config.image_size)
    return 2 * config.grid**2 * config.encoder.width * 3 * config.patch_size**2


def _distances(config: TokenizerConfig) -> int:
    return 2 * config.sequence_length * config.codebook_size * config.code_width


def decoder_flops(config: TokenizerConfig, decoder: AnyDecoderConfig) -> int:
    """Codes to image, and to the prefix strip where there is a head for it."""
    if isinstance(decoder, ConvolutionalDecoderConfig):
        pixels = _convolution(decoder.channels, 3, config.image_size)
        return _embedding(config, decoder) + _levels(config, decoder) + pixels
    cells = config.grid**2
    patches = cells + (config.prefix_length if decoder.prefix_head else 0)
    pixels = 2 * patches * 3 * config.patch_size**2 * (decoder.width + 3)  # the head, then the 3 -> 3 convolution
    length = _read(config, decoder) + decoder.extra_tokens
    return _embedding(config, decoder) + _vit(decoder.layers, decoder.width, length) + pixels


def _read(config: TokenizerConfig, decoder: DecoderConfig) -> int:
    return config.grid**2 + (config.prefix_length if decoder.reads_prefix else 0)


def _embedding(config: TokenizerConfig, decoder: AnyDecoderConfig) -> int:
    """The decoder's first layer."""
    if isinstance(decoder, ConvolutionalDecoderConfig):
        return _convolution(config.code_width, widths(decoder.channels, config.patch_size)[-1], config.grid)
    return 2 * _read(config, decoder) * config.code_width * decoder.width


def tokenizer_step_flops(config: TokenizerConfig, stage: Stage) -> int:
    """One image of a training step of a tokenizer's stage, without feature networks and discriminator.

    Stage 1: no gradients of the pixels or of the distances to the codebook, which online clustering computes once more.
    Stage 2: encoder and codes are frozen.
    """
    decoder = {"stage1": config.stage1, "stage2": config.stage2}[stage]
    assert decoder is not None
    encode, decode = encoder_flops(config), 3 * decoder_flops(config, decoder)
    if stage == "stage2":
        return encode + decode - _embedding(config, decoder)
    return 3 * encode + decode - _patches(config) - _distances(config)


def generator_step_flops(config: GeneratorConfig) -> int:
    """One sequence of a training step."""
    return 3 * generator_flops(config)


def generator_flops(config: GeneratorConfig) -> int:
    """One whole sequence in parallel, as in training: the class and all codes but the last."""
    length, width = config.sequence_length, config.width
    blocks = _blocks(config.layers, width, length, 3 * width * swiglu_width(width))
    return blocks + 2 * length * width * config.codebook_size


def sampling_flops(config: GeneratorConfig) -> int:
    """One sequence sampled code by code over a cache, in one guidance branch: step i attends to i positions."""
    length, width = config.sequence_length, config.width
    weights = config.layers * _block_weights(config) + width * config.codebook_size
    attended = length * (length + 1) // 2
    return 2 * length * weights + config.layers * 2 * 2 * attended * width


def _block_weights(config: GeneratorConfig) -> int:
    return 4 * config.width**2 + 3 * config.width * swiglu_width(config.width)


def step_weight_bytes(config: GeneratorConfig, precision: EnginePrecision, rows: int) -> int:
    """All that one step of the sampler reads of the model, without the cache.

    Weights and biases of linear layers in this precision (int8: biases in float32, and a scale per output), norms in
    float32, and one row of the embedding table for each of the `rows` (2 per guided image).
    """
    width, layers, size = config.width, config.layers, _WEIGHT_BYTES[precision]
    weights = layers * _block_weights(config) + width * config.codebook_size
    biases = layers * 4 * width + config.codebook_size
    outputs = layers * (5 * width + 2 * swiglu_width(width)) + config.codebook_size
    norms = layers * (2 * width + 2 * width // config.heads) + width
    extra = 4 * (biases + outputs) if precision == "int8" else size * biases
    return size * weights + extra + 4 * norms + 4 * rows * width
