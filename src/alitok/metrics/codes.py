"""How much of a codebook is in use.

Enter: integer codes of any shape, usually (B, T), in [0, V). Leave: the share of the V entries that were drawn at
least once, and the perplexity exp(entropy), the number of equally likely codes that would be as varied.
"""

from __future__ import annotations

import torch

from alitok.core.errors import AlitokError


class CodeUsage:
    """Counts codes as they stream by.

    Args:
        codebook_size: V, the number of entries.
    """

    def __init__(self, codebook_size: int) -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)

    def update(self, codes: torch.Tensor) -> None:
        """Count integer codes of any shape, on any device.

        Raises:
            AlitokError: a code lies outside [0, V).
        """
        if codes.numel() == 0:
            return
        flat = codes.detach().flatten().to("cpu", torch.int64)
        low, high = int(flat.min()), int(flat.max())
        size = len(self.counts)
        if low < 0 or high >= size:
            raise AlitokError(
                f"Codes from {low} to {high} do not fit a codebook of {size} entries; "
                "use the tokenizer that made these codes."
            )
        self.counts += torch.bincount(flat, minlength=size)

    @property
    def use(self) -> float:
        """Share of the entries drawn at least once, in [0, 1]; 0 before any code."""
        return int((self.counts > 0).sum()) / len(self.counts)

    @property
    def perplexity(self) -> float:
        """The exponential of the entropy of the shares, in [1, V]; 0 before any code."""
        total = int(self.counts.sum())
        if total == 0:
            return 0.0
        shares = self.counts.double() / total
        return float(torch.special.entr(shares).sum().exp())
