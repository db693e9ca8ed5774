"""A plain convolutional encoder and decoder, as a baseline for the transformers in a tokenizer without prefix codes.

A code describes its patch and the patches around it; only the norms' statistics carry global information. Shapes: B
images, h image side, f patch side, G = h / f grid side, T = G * G codes, D code width, C channels.

Source: VQGAN (Esser, Rombach & Ommer, 2021) without its attention, with one downsampling for each factor of 2 in f.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.tokenizer.vit import Decoded

_GROUPS = 32  # of a norm, as published; fewer for groups of at least four channels
_MIN_GROUP_CHANNELS = 4
_WIDEST = 4  # times the channels at full resolution


@config
class _ConvolutionalConfig:
    channels: int = 128
    blocks: int = 2

    def __post_init__(self) -> None:
        require_at_least(self, 1, "channels", "blocks")
        if self.channels % _MIN_GROUP_CHANNELS:
            raise AlitokError(f"channels must be a multiple of {_MIN_GROUP_CHANNELS}, not {self.channels}")


@config
class ConvolutionalEncoderConfig(_ConvolutionalConfig):
    """Size of a convolutional encoder.

    Attributes:
        channels: at full resolution, a multiple of 4; each halving of the resolution doubles them, up to 4 times.
        blocks: residual blocks per resolution.
    """


@config
class ConvolutionalDecoderConfig(_ConvolutionalConfig):
    """Size of a convolutional decoder; see `ConvolutionalEncoderConfig`."""


def require_halvings(patch_size: int, prefix: int) -> None:
    """Check that the patch side is a power of two and there are no prefix codes."""
    if patch_size < 1 or patch_size & (patch_size - 1):
        raise AlitokError(f"a convolutional tokenizer needs a power of two as patch_size, not {patch_size}")
    if prefix:
        raise AlitokError(f"a convolutional tokenizer has no prefix codes, so prefix must be 0, not {prefix}")


def widths(channels: int, patch_size: int) -> list[int]:
    """Channels at each resolution, from that of the image (C) to that of the grid (4 C at most)."""
    return [channels * min(2**halvings, _WIDEST) for halvings in range(patch_size.bit_length())]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels // _MIN_GROUP_CHANNELS), channels, eps=1e-6)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


class ResidualBlock(nn.Module):
    """Norm, SiLU and a 3 x 3 convolution, twice, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in, self.into = _norm(channels), _convolution(channels, channels)
        self.norm_out, self.out = _norm(channels), _convolution(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        inner = self.into(F.silu(self.norm_in(x)))
        return x + self.out(F.silu(self.norm_out(inner)))


class Upsampling(nn.Module):
    """Nearest-neighbor upsampling by 2, then a 3 x 3 convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convolution = _convolution(before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C', 2 h, 2 w)."""
        return self.convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ConvolutionalEncoder(nn.Module):
    """Images (B, 3, h, h) in [0, 1] -> features (B, T, D), one per patch in raster order."""

    def __init__(self, config: ConvolutionalEncoderConfig, *, patch_size: int, code_width: int) -> None:
        super().__init__()
        sizes = widths(config.channels, patch_size)
        self.stem = _convolution(3, sizes[0])
        self.levels = nn.ModuleList()
        for number, size in enumerate(sizes):
            level = [ResidualBlock(size) for _ in range(config.blocks)]
            down = [_convolution(size, after, stride=2) for after in sizes[number + 1 : number + 2]]
            self.levels.append(nn.Sequential(*level, *down))
        self.norm_out = _norm(sizes[-1])
        self.to_features = nn.Linear(sizes[-1], code_width)  # a 1 x 1 convolution

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, h) -> (B, T, D)."""
        x = self.stem(images)
        for level in self.levels:
            x = level(x)
        return self.to_features(F.silu(self.norm_out(x)).flatten(2).transpose(1, 2))


class ConvolutionalDecoder(nn.Module):
    """Code vectors (B, T, D) -> images (B, 3, h, h); it has no causal form."""

    def __init__(self, config: ConvolutionalDecoderConfig, *, grid: int, patch_size: int, code_width: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        sizes = widths(config.channels, patch_size)[::-1]
        self.from_vectors = _convolution(code_width, sizes[0])
        self.levels = nn.ModuleList()
        for number, size in enumerate(sizes):
            level = [ResidualBlock(size) for _ in range(config.blocks)]
            up = [Upsampling(size, after) for after in sizes[number + 1 : number + 2]]
            self.levels.append(nn.Sequential(*level, *up))
        self.norm_out = _norm(sizes[-1])
        self.to_pixels = _convolution(sizes[-1], 3)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight (3, C, 3, 3) where the adaptive adversarial weight is measured."""
        weight = self.to_pixels.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, vectors: torch.Tensor) -> Decoded:
        """(B, T, D) -> `Decoded`, without a prefix strip."""
        assert vectors.shape[1] == self.grid**2, "an image is decoded from all of its codes"
        x = self.from_vectors(vectors.transpose(1, 2).unflatten(2, (self.grid, self.grid)))
        for level in self.levels:
            x = level(x)
        x = F.silu(self.norm_out(x))
        with torch.autocast(x.device.type, enabled=False):  # bf16 cannot represent 256 levels
            return Decoded(self.to_pixels(x.to(self.to_pixels.weight.dtype)).sigmoid(), None)
