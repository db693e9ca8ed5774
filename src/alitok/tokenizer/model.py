"""The tokenizer: `encode(images) -> codes`, `decode(codes) -> images`, with a decoder for each stage of training.

Shapes: B images, h image side, T codes per image, D code width, f patch side, K prefix.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from alitok.core.checkpoint import ModelCard, fingerprint, load_head, load_parts, save_model
from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.tokenizer.convolutional import (
    ConvolutionalDecoder,
    ConvolutionalDecoderConfig,
    ConvolutionalEncoder,
    ConvolutionalEncoderConfig,
    require_halvings,
)
from alitok.tokenizer.quantizer import VectorQuantizer
from alitok.tokenizer.vit import Decoder, DecoderConfig, Encoder, EncoderConfig

Stage = Literal["stage1", "stage2"]
AnyDecoderConfig = DecoderConfig | ConvolutionalDecoderConfig
AnyDecoder = Decoder | ConvolutionalDecoder


@config
class TokenizerConfig:
    """Geometry, codebook, encoder and decoders; the defaults are the paper's 256-pixel layout.

    Encoder and decoders are each a transformer or convolutional (told by their keys in a file); a convolutional part
    requires a tokenizer without prefix codes and a power of two as patch size.

    Attributes:
        image_size: px, divisible by `patch_size`.
        patch_size: px of the patch of one grid code.
        prefix: number of prefix codes; None = one per cell of the first row.
        codebook_size, code_width: V entries of size D.
        stage1: the causal decoder that shapes the codes; None if it was not saved.
        stage2: the decoder trained afterwards on frozen codes; None before that stage.
    """

    image_size: int = 256
    patch_size: int = 16
    prefix: int | None = None
    codebook_size: int = 4096
    code_width: int = 32
    encoder: EncoderConfig | ConvolutionalEncoderConfig = EncoderConfig()
    stage1: AnyDecoderConfig | None = DecoderConfig(causal=True, extra_tokens=1, prefix_head=True)
    stage2: AnyDecoderConfig | None = DecoderConfig(extra_tokens=64, reads_prefix=False)

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.patch_size <= 0 or self.image_size % self.patch_size:
            raise AlitokError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        require_at_least(self, 2, "codebook_size")
        require_at_least(self, 1, "code_width")
        if self.prefix is not None:
            require_at_least(self, 0, "prefix")
        parts = (self.encoder, self.stage1, self.stage2)
        if any(isinstance(part, ConvolutionalEncoderConfig | ConvolutionalDecoderConfig) for part in parts):
            require_halvings(self.patch_size, self.prefix_length)

    @property
    def grid(self) -> int:
        """Grid cells per side."""
        return self.image_size // self.patch_size

    @property
    def prefix_length(self) -> int:
        """K, the number of prefix codes."""
        return self.grid if self.prefix is None else self.prefix

    @property
    def sequence_length(self) -> int:
        """T, the number of codes per image."""
        return self.prefix_length + self.grid**2


class Reconstruction(NamedTuple):
    """What the losses of a stage need."""

    images: torch.Tensor  # (B, 3, h, h)
    prefix_strip: torch.Tensor | None  # (B, 3, f, K * f)
    features: torch.Tensor  # (B, T, D), for online clustering
    codes: torch.Tensor  # (B, T)
    quantizer_loss: torch.Tensor  # scalar


class Tokenizer(nn.Module):
    """Encoder, quantizer and the decoders of both stages."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = self._encoder(config.encoder)
        self.quantizer = VectorQuantizer(config.codebook_size, config.code_width)
        self.stage1 = self._decoder(config.stage1)
        self.stage2 = self._decoder(config.stage2)

    def _encoder(self, encoder: EncoderConfig | ConvolutionalEncoderConfig) -> Encoder | ConvolutionalEncoder:
        patch_size, code_width = self.config.patch_size, self.config.code_width
        if isinstance(encoder, ConvolutionalEncoderConfig):
            return ConvolutionalEncoder(encoder, patch_size=patch_size, code_width=code_width)
        grid, prefix = self.config.grid, self.config.prefix_length
        return Encoder(encoder, grid=grid, patch_size=patch_size, prefix=prefix, code_width=code_width)

    def _decoder(self, decoder: AnyDecoderConfig | None) -> AnyDecoder | None:
        if decoder is None:
            return None
        grid, patch_size, code_width = self.config.grid, self.config.patch_size, self.config.code_width
        if isinstance(decoder, ConvolutionalDecoderConfig):
            return ConvolutionalDecoder(decoder, grid=grid, patch_size=patch_size, code_width=code_width)
        prefix = self.config.prefix_length
        return Decoder(decoder, grid=grid, patch_size=patch_size, prefix=prefix, code_width=code_width)

    def decoder(self, stage: Stage | None = None) -> AnyDecoder:
        """The decoder of a stage; None = the last one. A missing decoder is an error."""
        decoder = {"stage1": self.stage1, "stage2": self.stage2, None: self.stage2 or self.stage1}.get(stage)
        if decoder is None:
            there = " and ".join(name for name in ("stage1", "stage2") if getattr(self, name) is not None)
            wanted = f"{stage} decoder" if stage else "decoder"
            raise AlitokError(f"This tokenizer has no {wanted} (it has: {there or 'none'}).")
        return decoder

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, h) in [0, 1] -> codes (B, T) int64.

        Raises:
            AlitokError: images of another shape, or integers.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size) or not images.is_floating_point():
            raise AlitokError(
                f"Images must be floats (B, 3, {size}, {size}) in [0, 1], not {images.dtype} {tuple(images.shape)}."
            )
        return self.quantizer.nearest(self.encoder(images.to(next(self.encoder.parameters()).dtype)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages whose decoders are present, in training order; none is an error."""
        self.decoder()
        stages: tuple[Stage, ...] = ("stage1", "stage2")
        return tuple(stage for stage in stages if getattr(self, stage) is not None)

    def decode(self, codes: torch.Tensor, stage: Stage | None = None) -> torch.Tensor:
        """Codes (B, T) -> images (B, 3, h, h) in [0, 1], by the decoder of `stage` (None = the last one).

        Raises:
            AlitokError: codes of another shape, or no such decoder.
        """
        if codes.ndim != 2 or codes.shape[1] != self.config.sequence_length or codes.is_floating_point():
            raise AlitokError(
                f"Codes must be integers (B, {self.config.sequence_length}), not {codes.dtype} {tuple(codes.shape)}."
            )
        return self.decoder(stage)(self.quantizer.lookup(codes.long())).images

    def reconstruct(self, images: torch.Tensor, stage: Stage | None = None) -> torch.Tensor:
        """Encode and decode images (B, 3, h, h) in [0, 1]."""
        return self.decode(self.encode(images), stage)

    def forward(self, images: torch.Tensor, stage: Stage) -> Reconstruction:
        """Encode, quantize straight-through, decode, for training; in stage 2 only the decoder gets gradients."""
        with torch.set_grad_enabled(stage == "stage1" and torch.is_grad_enabled()):
            features = self.encoder(images)
            quantized = self.quantizer(features)
        decoded = self.decoder(stage)(quantized.vectors)
        return Reconstruction(decoded.images, decoded.prefix_strip, features, quantized.codes, quantized.loss)

    def parts(self) -> dict[str, nn.Module]:
        """The modules by the names of their weight files: `encoder`, `quantizer`, `stage1`, `stage2`."""
        return dict(self.named_children())

    def save_pretrained(self, directory: str | Path, card: ModelCard | None = None) -> None:
        """Write `config.json`, one safetensors file per part, and a model card."""
        directory = Path(directory)
        card = replace(card or ModelCard(directory.name), loader="Tokenizer")
        save_model(directory, kind="tokenizer", config=to_dict(self.config), parts=self.parts(), card=card)

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path, *, offline: bool = False) -> Tokenizer:
        """Read a directory of `save_pretrained`, or `owner/name` on the hub; on the CPU, in evaluation mode.

        `offline` uses the hub's cache only.

        Raises:
            AlitokError: a file is missing, damaged, or not a tokenizer's.
        """
        directory = locate(path_or_name, offline=offline, part="tokenizer")
        head = load_head(directory / "config.json", "tokenizer", "config", "class_names")
        tokenizer = cls(from_dict(TokenizerConfig, head["config"], str(directory / "config.json")))
        load_parts(directory, tokenizer.parts())
        return tokenizer.eval()

    def load_stage1(self, directory: Path) -> None:
        """Load encoder, quantizer and stage-1 decoder of a saved tokenizer; the stage-2 decoder stays as it is.

        Raises:
            AlitokError: a file is missing, damaged, or of another shape.
        """
        load_head(directory / "config.json", "tokenizer")
        load_parts(directory, {name: module for name, module in self.parts().items() if name != "stage2"})

    def codes_fingerprint(self) -> str:
        """A hash of everything that decides an image's codes: geometry, encoder and codebook, not the decoders."""
        tensors = {**self.encoder.state_dict(), "codebook": self.quantizer.codebook}
        geometry = {"image_size": self.config.image_size, "patch_size": self.config.patch_size}
        return fingerprint(tensors, {**geometry, "prefix": self.config.prefix_length})


class TokenizerCodec:
    """A tokenizer in evaluation mode, with the decoder of `stage` (None = the last one)."""

    def __init__(self, tokenizer: Tokenizer, stage: Stage | None = None) -> None:
        self._tokenizer, self._stage = tokenizer, stage
        self.codebook = tokenizer.quantizer.codebook.detach()
        self.codebook_size, self.image_size = tokenizer.config.codebook_size, tokenizer.config.image_size
        self.device = self.codebook.device

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, h) -> (B, T)."""
        return self._tokenizer.encode(images)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, 3, h, h)."""
        return self._tokenizer.decode(codes, self._stage)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, h) -> (B, T, D)."""
        return self._tokenizer.encoder(images)

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T)."""
        return self._tokenizer.quantizer.nearest(features)
