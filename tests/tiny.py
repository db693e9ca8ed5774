"""The smallest models with every part, for tests of whatever surrounds them; vary them by `dataclasses.replace`."""

from alitok.generator import GeneratorConfig
from alitok.tokenizer import (
    ConvolutionalDecoderConfig,
    ConvolutionalEncoderConfig,
    DecoderConfig,
    EncoderConfig,
    TokenizerConfig,
)

SIZE = {"width": 16, "layers": 1, "heads": 2}
TOKENIZER = TokenizerConfig(
    image_size=16,
    patch_size=4,
    codebook_size=16,
    code_width=4,
    encoder=EncoderConfig(**SIZE),
    stage1=DecoderConfig(**SIZE, causal=True, extra_tokens=1, prefix_head=True),
    stage2=DecoderConfig(**SIZE, extra_tokens=2, reads_prefix=False),
)
CONVOLUTIONAL = TokenizerConfig(
    image_size=8,
    patch_size=2,
    prefix=0,
    codebook_size=16,
    code_width=4,
    encoder=ConvolutionalEncoderConfig(channels=8, blocks=1),
    stage1=ConvolutionalDecoderConfig(channels=8, blocks=1),
    stage2=ConvolutionalDecoderConfig(channels=12, blocks=2),
)
GENERATOR = GeneratorConfig(grid=4, prefix=4, codebook_size=16, classes=2, layers=2, width=16, heads=2, dropout=0.0)
