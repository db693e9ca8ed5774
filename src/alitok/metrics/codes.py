"""Statistics of codes: how much of the codebook is used, and how predictable the codes are.

Shapes: B images, T = K + G * G codes, K prefix, G grid side, V codebook.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.errors import AlitokError

_SETTLING = 100  # windows before a drop is worth a warning: at first the codebook is still finding its features


class CodeUsage:
    """Counts codes of a codebook of V entries as they stream by."""

    def __init__(self, codebook_size: int) -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)

    def update(self, codes: torch.Tensor) -> None:
        """Count integer codes of any shape, on any device; codes outside [0, V) are an error."""
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
        """Fraction of the entries seen at least once, in [0, 1]."""
        return int((self.counts > 0).sum()) / len(self.counts)

    @property
    def perplexity(self) -> float:
        """In [1, V]; 0 before any code."""
        total = int(self.counts.sum())
        if total == 0:
            return 0.0
        return float(perplexity(self.counts.double()))


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """exp(entropy) of counts (V,) that are not all zero: a scalar in [1, V]."""
    return torch.special.entr(counts / counts.sum()).sum().exp()


class UsageWindow(nn.Module):
    """Codebook use and perplexity over windows of a fixed number of steps, without host-device syncs.

    Use depends on how many codes are counted, so only windows of equal length can be compared. `fallen` warns below the
    fraction `alarm` of the highest use so far.
    """

    counts: torch.Tensor
    steps: torch.Tensor
    use: torch.Tensor
    perplexity: torch.Tensor
    highest: torch.Tensor
    windows: torch.Tensor

    def __init__(self, codebook_size: int, window: int, alarm: float) -> None:
        super().__init__()
        self.window, self.alarm = window, alarm
        self._warned = False
        self.register_buffer("counts", torch.zeros(codebook_size, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("windows", torch.zeros((), dtype=torch.int64))
        for name in ("use", "perplexity", "highest"):  # of the last full window; 0 before the first
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, counts: torch.Tensor) -> None:
        """Add the counts (V,) of a step."""
        self.counts += counts
        self.steps += 1
        full = self.steps >= self.window
        self.use.copy_(torch.where(full, (self.counts > 0).float().mean(), self.use))
        self.perplexity.copy_(torch.where(full, perplexity(self.counts.float()), self.perplexity))
        self.highest.copy_(torch.maximum(self.highest, self.use))
        self.windows += full
        for tensor in (self.counts, self.steps):
            tensor.masked_fill_(full, 0)

    def report(self) -> dict[str, float]:
        """`codebook_use` and `codebook_perplexity` of the last full window; empty before the first."""
        if not self.highest.item():
            return {}
        return {"codebook_use": self.use.item(), "codebook_perplexity": self.perplexity.item()}

    def fallen(self) -> str | None:
        """A warning when use has dropped, once per drop."""
        use, highest = self.use.item(), self.highest.item()
        low = use < self.alarm * highest and self.windows.item() > _SETTLING
        first, self._warned = low and not self._warned, low
        if not first:
            return None
        return (
            f"Warning: {use:.1%} of the codebook was in use over the last {self.window} steps, after {highest:.1%} "
            "before; if it does not recover, lower the learning rate."
        )


def code_losses(logits: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats (B, T) float32, and whether each code has the largest logit (B, T) bool.

    Logits (B, T, V) at position t depend only on the codes (B, T) before t.
    """
    assert logits.shape[:2] == codes.shape, (logits.shape, codes.shape)
    nats = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none").view(codes.shape)
    return nats, logits.argmax(-1) == codes


def bits_per_image(nats: torch.Tensor, prefix: int) -> tuple[float, float]:
    """Code length, of all codes and of the grid codes alone, from the mean cross-entropy (T,) of each position."""
    assert 0 <= prefix <= len(nats)
    bits = nats.double() / math.log(2)
    return float(bits.sum()), float(bits[prefix:].sum())
