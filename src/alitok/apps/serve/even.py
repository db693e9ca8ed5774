"""Codes to pixels in groups of one size, whatever the number of images.

The shape of a batch decides how the last bits of its sums are rounded, and so, now and then, a pixel. In groups of a
size that never changes, an image's pixels depend on its own codes alone. Shapes: B images, T codes, h image side.
"""

from __future__ import annotations

import torch

from alitok.core.device import Precision
from alitok.sampling.decoding import PixelDecoder
from alitok.tokenizer import Decoder, Tokenizer

_LARGEST = 8
_CHEAP = 1e8  # operations of a group on a CPU, about as long as it takes to start them all


class EvenDecoder(PixelDecoder):
    """As `PixelDecoder`, but an image's pixels do not depend on what else is decoded.

    Args:
        tokenizer: as there.
        precision: likewise.

    Attributes:
        group: images decoded at a time; the last group is filled up. A function of the tokenizer and its device.
    """

    def __init__(self, tokenizer: Tokenizer, precision: Precision = "auto") -> None:
        super().__init__(tokenizer, precision)
        self.group = group_size(tokenizer)

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T), B at least 1 -> images (B, 3, h, h) uint8."""
        missing = -len(codes) % self.group
        filled = torch.cat([codes, codes[-1:].expand(missing, -1)])
        # `PixelDecoder` is named as a function: `super()` means nothing inside a comprehension.
        return torch.cat([PixelDecoder.__call__(self, part) for part in filled.split(self.group)])[: len(codes)]


def group_size(tokenizer: Tokenizer) -> int:
    """As many images as take hardly longer than one: on a CPU only of small decoders, which mostly wait for calls."""
    decoder = tokenizer.decoder()
    if next(decoder.parameters()).device.type != "cpu":
        return _LARGEST
    if not isinstance(decoder, Decoder):
        return 1
    operations = 2 * sum(weight.numel() for weight in decoder.parameters()) * tokenizer.config.sequence_length
    return max(1, min(_LARGEST, int(_CHEAP / operations)))
