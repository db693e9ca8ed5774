"""How well codes can be guessed from those before them.

Enter: logits (B, T, V) of a next-code model and the codes (B, T) that came. Leave: cross-entropy of each code
and whether it was guessed right (B, T), and the bits that an image takes.
Shapes: B images, T = K + G * G codes, K prefix, G grid side, V codebook.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def code_losses(logits: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each code by itself.

    Args:
        logits: (B, T, V) of any float type; those at position t were computed without code t and what follows it.
        codes: (B, T) integers in [0, V).

    Returns:
        Cross-entropy in nats (B, T) float32, and whether the code has the largest logit (B, T) bool.
    """
    assert logits.shape[:2] == codes.shape, (logits.shape, codes.shape)
    nats = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none").view(codes.shape)
    return nats, logits.argmax(-1) == codes


def bits_per_image(nats: torch.Tensor, prefix: int) -> tuple[float, float]:
    """What an image's codes cost when each is coded with the model's probabilities.

    Args:
        nats: (T,) mean cross-entropy at each position, prefix first.
        prefix: K, of 0 <= K <= T.

    Returns:
        Bits of all codes, and bits of the grid codes alone; the difference is what the prefix costs.
    """
    assert 0 <= prefix <= len(nats)
    bits = nats.double() / math.log(2)
    return float(bits.sum()), float(bits[prefix:].sum())
