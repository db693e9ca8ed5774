import numpy as np
import pytest

from alitok.metrics.student import t_interval


@pytest.mark.parametrize(
    ("level", "count", "quantile"),
    # The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, solved for t; they agree with their table 26.10.
    [(0.95, 2, 12.7062047), (0.95, 3, 4.3026527), (0.95, 5, 2.7764451), (0.99, 10, 3.2498355), (0.8, 31, 1.3104150)],
)
def test_the_interval_equals_the_independent_formula(level, count, quantile):
    values = np.random.default_rng(count).normal(7, 3, count)
    half = quantile * values.std(ddof=1) / count**0.5
    assert t_interval(values.tolist(), level) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-7)


def test_one_value_has_no_interval():
    assert t_interval([1.0]) is None
    assert t_interval([]) is None
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_intervals_have_their_coverage(count):
    random, trials = np.random.default_rng(count), 2000
    held = sum(low <= 7 <= high for low, high in (t_interval(row, 0.8) for row in random.normal(7, 3, (trials, count))))
    assert held / trials == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / trials) ** 0.5)
