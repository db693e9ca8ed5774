"""Classifier-free guidance: its schedule over the sequence, and SoftCFG's weights.

Enters: positions and settings, or the branches' logits. Leaves: scales, guided logits, weights on cached values.
Source: the cosine-power schedule of AliTok; SoftCFG (ICLR 2026).
"""

from __future__ import annotations

import math

import torch


def guidance_scales(
    length: int, *, scale: float, power: float, schedule: str, interval: tuple[float, float]
) -> list[float]:
    """The scale at each of T = `length` positions s; 1, which is no guidance, outside the interval.

    `constant`: g. `linear`: `1 + (g - 1) * s / T`. `cosine`: `1 + (g - 1) * (1 - cos(pi * (s / T)^power)) / 2`.
    """
    start, stop = interval

    def at(position: int) -> float:
        share = position / length
        if not start <= share < stop:
            return 1.0
        bend = {
            "constant": 1.0,
            "linear": share,
            "cosine": (1 - math.cos(math.pi * share**power)) / 2,
        }[schedule]
        return 1 + (scale - 1) * bend

    return [at(position) for position in range(length)]


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`u + scale * (c - u)`, and c itself where the scale is 1, whoever else is guided in the batch."""
    return torch.where(scale == 1, conditional, unconditional + scale * (conditional - unconditional))


def soft_weights(confidence: torch.Tensor) -> torch.Tensor:
    """SoftCFG with step normalisation: weights of the drawn codes' values in the unconditional branch.

    Args:
        confidence: (B, n) the conditional branch's largest probability when each of the n codes was drawn.

    Returns:
        (B, n): `w_i = 1 - c_i / sum_j c_j`; all reductions add up to 1. Codes not drawn yet have confidence 0.
    """
    return 1 - confidence / confidence.sum(-1, keepdim=True).clamp(min=1e-30)
