"""Student's t interval for the mean of a few values, such as one per training seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Bounds(NamedTuple):
    """A confidence interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is significant."""
        return self.low > 0 or self.high < 0


def t_interval(values: Sequence[float], level: float = 0.95) -> Bounds | None:
    """Interval for the mean of independent normal, finite values; None for fewer than two; `level` in (0, 1)."""
    assert 0 < level < 1, level
    count = len(values)
    if count < 2:
        return None
    from scipy.stats import t  # slow to import, and needed for several seeds only

    mean = math.fsum(values) / count
    half = float(t.ppf((1 + level) / 2, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Bounds(mean - half, mean + half)
