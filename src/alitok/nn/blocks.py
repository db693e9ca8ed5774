"""Pre-norm transformer blocks (B, L, D) -> (B, L, D): ViT (LayerNorm, GELU) and Llama (RMSNorm, SwiGLU)."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from alitok.nn.attention import RMS_EPS, Attention, KeyValueCache, LayerCache


class Mlp(nn.Module):
    """Two biased layers with GELU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.down(F.gelu(self.up(x)))


def swiglu_width(width: int) -> int:
    """Inner width of a SwiGLU MLP: 8/3 of `width`, rounded up to a multiple of 256."""
    return math.ceil(8 * width / 3 / 256) * 256


class SwiGlu(nn.Module):
    """Gated MLP without biases, `swiglu_width` wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = swiglu_width(width)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and MLP with pre-norm, residual connections, and dropout on the residual branches."""

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: Attention,
        mlp_norm: nn.Module,
        mlp: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        *,
        rotary: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        cache: LayerCache | None = None,
        value_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, L, D) -> (B, L, D); the arguments are those of `Attention.forward`."""
        attended = self.attention(
            self.attention_norm(x), rotary=rotary, mask=mask, causal=causal, cache=cache, value_weights=value_weights
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Blocks(nn.ModuleList):
    """A stack of blocks.

    `activation_checkpointing` saves memory in training for about a third more compute, with the same result.
    """

    activation_checkpointing = False

    def forward(
        self,
        x: torch.Tensor,
        *,
        rotary: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        value_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, L, D) -> (B, L, D); the arguments are those of `Attention.forward`, with the cache of all layers."""
        activation_checkpointing = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for index, block in enumerate(self):
            layer = None if cache is None else cache.layer(index)
            run = partial(checkpoint, block, use_reentrant=False) if activation_checkpointing else block
            x = run(x, rotary=rotary, mask=mask, causal=causal, cache=layer, value_weights=value_weights)
        return x


def vit_block(width: int, heads: int) -> Block:
    """The block of the tokenizer's encoder and decoders."""
    return Block(nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width), Mlp(width))


def llama_block(width: int, heads: int, dropout: float) -> Block:
    """The block of the generator, with QK-norm."""
    return Block(
        nn.RMSNorm(width, eps=RMS_EPS),
        Attention(width, heads, qk_norm=True, dropout=dropout),
        nn.RMSNorm(width, eps=RMS_EPS),
        SwiGlu(width),
        dropout,
    )


_STD, _STD_WIDTH = 0.02, 768  # as published, and the narrowest published layers


def init_linear_layers(module: nn.Module, width: int) -> None:
    """Initialize layers and convolutions of fan-in `width` in place: truncated-normal weights, zero biases.

    The std is 0.02 from a width of 768 up and grows with 1 / sqrt(width) below, so that a layer passes on as much of
    its input as at 768; with 0.02, narrow models ignore the image for hundreds of steps (docs/architecture.md).
    """
    std = _STD * max(1.0, _STD_WIDTH / width) ** 0.5
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
