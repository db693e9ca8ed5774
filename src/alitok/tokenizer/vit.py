"""The ViT encoder (images -> features) and the ViT decoder (code vectors -> images).

Shapes: B images, h = w image side, f patch side, G = h / f grid side, K prefix, T = K + G * G codes, D code width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.nn.attention import KeyValueCache, require_heads
from alitok.nn.blocks import Blocks, init_linear_layers, vit_block


@config
class EncoderConfig:
    """Size of the encoder; with `causal`, a code sees no later patch (the paper's validation experiment)."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    causal: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 1, "width", "layers", "heads")
        require_heads(self.width, self.heads)


@config
class DecoderConfig:
    """Size and form of a decoder.

    Attributes:
        causal: position i attends only to codes up to i.
        extra_tokens: learned tokens before the codes (a leading token, or buffer tokens).
        reads_prefix: whether the prefix codes are part of the input.
        prefix_head: whether a second pixel head decodes the strip of the K prefix positions.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    causal: bool = False
    extra_tokens: int = 0
    reads_prefix: bool = True
    prefix_head: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 1, "width", "layers", "heads")
        require_at_least(self, 0, "extra_tokens")
        require_heads(self.width, self.heads)
        if self.prefix_head and not self.reads_prefix:
            raise AlitokError("prefix_head needs reads_prefix")


def _positions(length: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(length, width) * width**-0.5)


class Encoder(nn.Module):
    """Images (B, 3, h, h) in [0, 1] -> features (B, T, D), the outputs at T learned latent tokens."""

    causal_mask: torch.Tensor | None

    def __init__(self, config: EncoderConfig, *, grid: int, patch_size: int, prefix: int, code_width: int) -> None:
        super().__init__()
        width, cells = config.width, grid * grid
        self.patch_embedding = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.patch_positions = _positions(cells, width)
        self.latent_tokens = _positions(prefix + cells, width)
        self.latent_positions = _positions(prefix + cells, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = Blocks(vit_block(width, config.heads) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(width)
        self.to_features = nn.Linear(width, code_width)
        mask = _causal_encoder_mask(grid, prefix) if config.causal else None
        self.register_buffer("causal_mask", mask, persistent=False)
        init_linear_layers(self, width)
        init_linear_layers(self.patch_embedding, 3 * patch_size**2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, h) -> (B, T, D)."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2) + self.patch_positions
        latents = (self.latent_tokens + self.latent_positions).expand(len(images), -1, -1)
        x = self.norm_in(torch.cat([patches, latents], dim=1))
        x = self.blocks(x, mask=self.causal_mask)
        return self.to_features(self.norm_out(x[:, patches.shape[1] :]))


def _causal_encoder_mask(grid: int, prefix: int) -> torch.Tensor:
    """(G*G + T, G*G + T) bool over [patches, latents]: each attends to cells up to its own, in raster order.

    Prefix position i corresponds to cell i of the first row (a longer prefix repeats the first cell).
    """
    cells = torch.arange(grid * grid)
    prefix_cells = (torch.arange(prefix) - max(prefix - grid, 0)).clamp(min=0)
    cell = torch.cat([cells, prefix_cells, cells])
    return cell[None, :] <= cell[:, None]


class PixelHead(nn.Module):
    """Linear layer to f x f x 3 pixels per position, folded to an image, mixed by a 1x1 convolution, sigmoid."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.to_pixels = nn.Linear(width, patch_size * patch_size * 3)
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        """(B, rows * columns, W) -> (B, 3, rows * f, columns * f) in [0, 1]."""
        f = self.patch_size
        pixels = self.to_pixels(x).unflatten(1, (rows, -1)).unflatten(-1, (f, f, 3))  # B r c fr fc 3
        image = pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        with torch.autocast(x.device.type, enabled=False):  # bf16 cannot represent 256 levels
            return self.mix(image.to(self.mix.weight.dtype)).sigmoid()


class Decoded(NamedTuple):
    """Output of a decoder."""

    images: torch.Tensor  # (B, 3, h, h) in [0, 1]
    prefix_strip: torch.Tensor | None  # (B, 3, f, K * f) of the prefix positions, with a prefix head


class Decoder(nn.Module):
    """Code vectors (B, T, D) -> images (B, 3, h, h)."""

    def __init__(self, config: DecoderConfig, *, grid: int, patch_size: int, prefix: int, code_width: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.prefix = prefix  # of the input, whether read or not
        self.unread = 0 if config.reads_prefix else prefix  # prefix codes that are skipped
        width = config.width
        self.from_vectors = nn.Linear(code_width, width)
        self.extra_tokens = _positions(config.extra_tokens, width)
        self.positions = _positions(config.extra_tokens + prefix - self.unread + grid * grid, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = Blocks(vit_block(width, config.heads) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(width)
        self.head = PixelHead(width, patch_size)
        self.prefix_head = PixelHead(width, patch_size) if config.prefix_head and prefix else None
        init_linear_layers(self, width)
        for head in (self.head, self.prefix_head):
            if head is not None:
                # Small weights here would shrink all gradients of the image; see docs/architecture.md.
                nn.init.dirac_(head.mix.weight)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight (f * f * 3, W) where the adaptive adversarial weight is measured."""
        weight = self.head.to_pixels.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, vectors: torch.Tensor) -> Decoded:
        """(B, T, D) -> `Decoded`."""
        assert vectors.shape[1] == self.prefix + self.grid**2, "an image is decoded from all of its codes"
        x = self.read(vectors[:, self.unread :])
        images = self.head(x[:, -self.grid * self.grid :], rows=self.grid)
        if self.prefix_head is None:
            return Decoded(images, None)
        return Decoded(images, self.prefix_head(x[:, : self.prefix], rows=1))

    def read(self, vectors: torch.Tensor, cache: KeyValueCache | None = None) -> torch.Tensor:
        """Run the transformer over code vectors (B, n, D), without the prefix if it is not read -> (B, n, W).

        With a `cache` from `new_cache`, for a causal decoder, they continue those of earlier calls, and the cache
        grows; the extra tokens go in with the first.
        """
        start = 0 if cache is None else cache.length
        x = self.from_vectors(vectors)
        if start == 0:
            x = torch.cat([self.extra_tokens.expand(len(x), -1, -1), x], dim=1)
        end = start + x.shape[1]
        x = self.blocks(self.norm_in(x + self.positions[start:end]), causal=self.config.causal, cache=cache)
        if cache is not None:
            cache.length = end
        return self.norm_out(x[:, -vectors.shape[1] :])

    def new_cache(self, batch: int) -> KeyValueCache:
        """An empty cache for `batch` images, on the decoder's device and in its dtype."""
        weight = self.from_vectors.weight
        return KeyValueCache(
            layers=self.config.layers,
            batch=batch,
            heads=self.config.heads,
            positions=len(self.positions),
            head_size=self.config.width // self.config.heads,
            device=weight.device,
            dtype=weight.dtype,
        )
