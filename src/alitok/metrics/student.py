"""How sure a mean of few values is.

Enter: values, such as one for each training seed. Leaves: Student's interval of their mean.

Source: the distribution for whole degrees of freedom is Abramowitz and Stegun, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Bounds(NamedTuple):
    """Ends of an interval of confidence."""

    low: float
    high: float


def t_interval(values: Sequence[float], level: float = 0.95) -> Bounds | None:
    """Student's interval of the mean of independent, normal values; None for fewer than two.

    Args:
        values: finite.
        level: share of such intervals that hold the mean that endless values would have, in (0, 1).
    """
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    reach = t_quantile(level, count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Bounds(mean - reach, mean + reach)


def t_quantile(level: float, freedom: int) -> float:
    """The t > 0 for which Student's distribution has a share `level` between -t and t.

    Args:
        level: the share, in (0, 1).
        freedom: degrees of freedom, at least 1.
    """
    assert 0 < level < 1, level
    assert freedom >= 1, freedom
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halving an angle, as t itself has no upper end
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < level else (low, angle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The share between -t and t, where t = tan(angle) sqrt(freedom): a finite series."""
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
