"""Codes (B, T) to images (B, 3, h, h) uint8, in fp32 on a CPU and in the faster of fp32 and bf16 on a GPU.

bf16 must also stay within 1/255 of fp32, one step of a uint8 pixel, on the first images. Machines and processes may
decide differently: their pixels may then differ by one step, codes never. A CPU always uses fp32, because its timings
are too close to decide the same way each time. `precision="fp32"` gives the same images everywhere, up to rounding.
"""

from __future__ import annotations

import time
from typing import get_args

import torch

from alitok.core import images as pixels
from alitok.core.device import Precision, autocast, computes_in_half
from alitok.core.errors import AlitokError
from alitok.tokenizer import Tokenizer

_TRIAL = 2  # images decoded in both precisions
_TOLERANCE = 1 / 255


class PixelDecoder:
    """Codes to uint8 images by a tokenizer's last decoder; the tokenizer is in evaluation mode.

    `precision` is `auto` until the first images decide, then the one in use. Raises AlitokError if it is unknown or the
    tokenizer has no decoder.
    """

    def __init__(self, tokenizer: Tokenizer, precision: Precision = "auto") -> None:
        if precision not in get_args(Precision):
            raise AlitokError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}.")
        tokenizer.decoder()  # raises without one
        self._tokenizer = tokenizer
        self.precision: Precision = precision

    @torch.inference_mode()
    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T) -> images (B, 3, h, h) uint8, on the tokenizer's device; AlitokError for another shape."""
        if self.precision == "auto" and len(codes):
            self.precision = _decide(self._tokenizer, codes[:_TRIAL])
        return pixels.to_uint8(_decode(self._tokenizer, codes, "bf16" if self.precision == "bf16" else "fp32"))


def _decide(tokenizer: Tokenizer, codes: torch.Tensor) -> Precision:
    if not _may_be_faster_in_half(codes.device):
        return "fp32"
    exact, fp32_seconds = _timed(tokenizer, codes, "fp32")
    rounded, bf16_seconds = _timed(tokenizer, codes, "bf16")
    close = (rounded - exact).abs().max().item() <= _TOLERANCE  # false where bf16 gives NaN
    return "bf16" if close and bf16_seconds < fp32_seconds else "fp32"


def _may_be_faster_in_half(device: torch.device) -> bool:
    return device.type != "cpu" and computes_in_half(device)


def _timed(tokenizer: Tokenizer, codes: torch.Tensor, precision: Precision) -> tuple[torch.Tensor, float]:
    """Decode twice; the images in float32 on the CPU, and the seconds of the second run including the transfer."""
    _decode(tokenizer, codes, precision).cpu()
    start = time.perf_counter()
    images = _decode(tokenizer, codes, precision).cpu()
    return images.float(), time.perf_counter() - start


def _decode(tokenizer: Tokenizer, codes: torch.Tensor, precision: Precision) -> torch.Tensor:
    with autocast(codes.device, precision):
        return tokenizer.decode(codes)
