"""The patch discriminator of the adversarial loss, as in Open-MagViT2 and the released AliTok."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError

_SLOPE = 0.1  # of the leaky ReLU
_GROUPS = 32


@config
class DiscriminatorConfig:
    """Size of the discriminator.

    Attributes:
        width: channels of the stem, a multiple of 32; each stage after the first doubles them.
        stages: each halves the resolution.
        regions: logits per side.
    """

    width: int = 128
    stages: int = 3
    regions: int = 16

    def __post_init__(self) -> None:
        require_at_least(self, 1, "width", "stages", "regions")
        if self.width % _GROUPS:
            raise AlitokError(f"width must be a multiple of {_GROUPS}, not {self.width}")


class BlurPool(nn.Module):
    """Halve the resolution after a binomial 4 x 4 blur, for shift invariance."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", (torch.outer(taps, taps) / 64)[None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h / 2, w / 2)."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, -1, -1), stride=2, padding=1, groups=channels)


class Discriminator(nn.Module):
    """5 x 5 stem, blur-pooled stages, and a 5 x 5 logit per region; high means real."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.width, 5, padding=2)
        self.stages = nn.ModuleList()
        channels = config.width
        for stage in range(config.stages):
            out = config.width * 2**stage
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(channels, out, 3, padding=1), BlurPool(), nn.GroupNorm(_GROUPS, out), nn.LeakyReLU(_SLOPE)
                )
            )
            channels = out
        self.pool = nn.AdaptiveMaxPool2d(config.regions)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.logit = nn.Conv2d(channels, 1, 5, padding=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) in [0, 1] -> logits (B, 1, regions, regions)."""
        x = F.leaky_relu(self.stem(images), _SLOPE)
        for stage in self.stages:
            x = stage(x)
        return self.logit(F.leaky_relu(self.mix(self.pool(x)), _SLOPE))
