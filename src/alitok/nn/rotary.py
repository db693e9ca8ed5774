"""Rotary position tables (L, E/2, 2) for a class token, a 1D prefix and a 2D grid.

Adjacent pairs of a head's E channels are rotated together, as in LlamaGen.
"""

from __future__ import annotations

import torch

from alitok.core.errors import AlitokError

BASE = 10_000.0


def rotary_table(prefix: int, grid: int, head_size: int) -> torch.Tensor:
    """Cosines and sines (1 + K + G * G, E/2, 2) float32 for [class, K `prefix`, G x G `grid`], `head_size` E.

    The class token's entry is all zeros, so its rotated query and key are zero. Prefix position `i` rotates all pairs
    by angles of `i`; grid cell `(r, c)` rotates the first half of the pairs by `prefix + r` and the second half by
    `prefix + c`. `AlitokError` if `head_size` is not divisible by 4.
    """
    if head_size % 4:
        raise AlitokError(f"The head size must be divisible by 4 for 2D rotary positions, not {head_size}.")
    half = head_size // 2
    line_rates = BASE ** (-torch.arange(half) * 2 / head_size)
    grid_rates = BASE ** (-torch.arange(half // 2) * 4 / head_size)

    prefix_angles = torch.outer(torch.arange(prefix), line_rates)  # (K, E/2)
    axis = torch.outer(prefix + torch.arange(grid), grid_rates)  # (G, E/4)
    rows = axis[:, None].expand(grid, grid, -1)
    columns = axis[None, :].expand(grid, grid, -1)
    grid_angles = torch.cat([rows, columns], dim=-1).reshape(grid * grid, half)

    angles = torch.cat([prefix_angles, grid_angles])
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(table[:1]), table])


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotate adjacent channel pairs of `x` (B, N, L, E) by `table` (L, E/2, 2); computed in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, N, L, E/2) each
    cos, sin = table.unbind(-1)
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
