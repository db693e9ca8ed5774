"""`Tokenizer` as an `alitok.metrics.codec.Codec`, which also has features and a codebook."""

from __future__ import annotations

import torch

from alitok.tokenizer.model import Stage, Tokenizer


class TokenizerCodec:
    """A tokenizer in evaluation mode.

    Args:
        tokenizer: on any device.
        stage: of the decoder; None = the last one.
    """

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
