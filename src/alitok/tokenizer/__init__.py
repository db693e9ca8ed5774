"""The tokenizer: images (B, 3, h, w) in [0, 1] to codes (B, T) and back."""

from alitok.tokenizer.convolutional import (
    ConvolutionalDecoder,
    ConvolutionalDecoderConfig,
    ConvolutionalEncoder,
    ConvolutionalEncoderConfig,
)
from alitok.tokenizer.model import Tokenizer, TokenizerConfig
from alitok.tokenizer.quantizer import Quantized, VectorQuantizer
from alitok.tokenizer.rows import RowDecoder
from alitok.tokenizer.vit import Decoder, DecoderConfig, Encoder, EncoderConfig

__all__ = [
    "ConvolutionalDecoder",
    "ConvolutionalDecoderConfig",
    "ConvolutionalEncoder",
    "ConvolutionalEncoderConfig",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "Quantized",
    "RowDecoder",
    "Tokenizer",
    "TokenizerConfig",
    "VectorQuantizer",
]
