"""Random numbers that belong to an image: a pure function of (seed, image, position, code) on every device.

Source: Philox-4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10

Words = tuple[torch.Tensor, ...]


def philox(counter: Words, key: Words) -> Words:
    """Four 32-bit words for each counter (four int64 tensors of such words) and key (two of them), all broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product of two words may overflow into the sign bit; masking leaves the right 32 bits.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((second >> 32) & _WORD) ^ c1 ^ k0,
            second & _WORD,
            ((first >> 32) & _WORD) ^ c3 ^ k1,
            first & _WORD,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


class ImageNoise:
    """Gumbel noise for a batch of images; `keys` are (seed, image) of each row, any integers, taken modulo 2^64."""

    def __init__(self, keys: Sequence[tuple[int, int]], device: torch.device) -> None:
        words = [[part >> shift & _WORD for part in key for shift in (0, 32)] for key in keys]
        table = torch.tensor(words, dtype=torch.int64, device=device)  # (B, 4)
        self._seed = table[:, 0, None, None], table[:, 1, None, None]
        self._image = table[:, 2, None, None], table[:, 3, None, None]

    def gumbel(self, start: int, count: int, codebook_size: int) -> torch.Tensor:
        """Noise (B, count, V) float32 for the positions `start` to `start + count`.

        The argmax of logits plus noise is a draw from their softmax, which rounding hardly ever changes.
        """
        device = self._seed[0].device
        blocks = torch.arange(-(-codebook_size // 4), device=device)
        positions = torch.arange(start, start + count, device=device)[:, None]
        words = philox((blocks, positions, *self._image), self._seed)
        bits = torch.stack(words, dim=-1).flatten(2)[..., :codebook_size]
        # Small uniforms keep their precision this way, and a code wins by a small one.
        uniform = (bits.float() + 0.5) * 2.0**-32
        return -torch.log(-torch.log1p(-uniform))
