"""The key-value cache: allocated once at full size, passed as an argument, never stored on a module.

Shapes: B batch, N heads, L positions, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


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
