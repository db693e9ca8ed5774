"""Multi-head self-attention and its key-value cache, shared by encoder, decoders and generator.

The cache is allocated once at full size, passed as an argument, and never stored on a module.

Shapes: B batch, L positions, D width, N heads, E = D / N head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.errors import AlitokError
from alitok.nn.rotary import rotate


@dataclass
class LayerCache:
    """One layer's keys and values: views (B, N, L, E) into the whole cache, filled up to `start`."""

    keys: torch.Tensor
    values: torch.Tensor
    start: int

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, N, n, E); return all filled positions (B, N, start + n, E)."""
        end = self.start + keys.shape[2]
        assert end <= self.keys.shape[2], "the cache is full"
        self.keys[:, :, self.start : end] = keys
        self.values[:, :, self.start : end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


class KeyValueCache:
    """Keys and values of all layers, of fixed size; the first `length` positions are filled."""

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        heads: int,
        positions: int,
        head_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._store = torch.empty((layers, 2, batch, heads, positions, head_size), device=device, dtype=dtype)
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        """The view of one layer; the caller advances `length` after the last layer."""
        keys, values = self._store[index]
        return LayerCache(keys, values, self.length)


RMS_EPS = 1e-5


def require_heads(width: int, heads: int) -> None:
    """Check that the width divides into heads."""
    if width % heads:
        raise AlitokError(f"width {width} is not divisible by {heads} heads")


class Attention(nn.Module):
    """Self-attention with biased projections, and dropout on the attention weights while training.

    `qk_norm`: RMSNorm on each head's queries and keys, before the rotation.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        require_heads(width, heads)
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.qk_norm = qk_norm
        if qk_norm:
            self.query_norm = nn.RMSNorm(width // heads, eps=RMS_EPS)
            self.key_norm = nn.RMSNorm(width // heads, eps=RMS_EPS)

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
        """(B, L, D) -> (B, L, D).

        Args:
            rotary: (L, E/2, 2) table for these positions.
            mask: (L, L) bool, True where the row attends to the column; not together with `causal`.
            cache: keys and values of the positions before `x`.
            value_weights: (B, L, L) factors of the attention weights; only with `causal`, without cache or mask.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # (B, N, L, E) each
        if self.qk_norm:
            # In the weight's dtype: under autocast the projections are bf16 and the norm's weights are not.
            dtype = self.query_norm.weight.dtype
            queries, keys = self.query_norm(queries.to(dtype)), self.key_norm(keys.to(dtype))
        if rotary is not None:
            queries, keys = rotate(queries, rotary), rotate(keys, rotary)
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        if cache is not None:
            keys, values = cache.append(keys, values)
            if causal and cache.start > 0:
                # Bottom-right causal: query i is at position start + i.
                mask = torch.ones(length, keys.shape[2], dtype=torch.bool, device=x.device).tril(cache.start)
                causal = False
        if value_weights is not None:
            attended = _weighted_attention(queries, keys, values, value_weights)
            return self.out(attended.transpose(1, 2).reshape(batch, length, width))
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and length > 1,
        )
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))


def _weighted_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, value_weights: torch.Tensor
) -> torch.Tensor:
    """Causal attention (B, N, L, E) with attention weights multiplied by (B, L, L) after the softmax."""
    length, size = queries.shape[-2:]
    scores = queries @ keys.transpose(-2, -1) / size**0.5
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    probs = scores.masked_fill(future, -torch.inf).softmax(-1)
    return (probs * value_weights[:, None]) @ values
