import numpy as np
import pytest
from scipy import stats

from alitok.metrics.student import t_interval, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_quantile_equals_scipys(freedom):
    for level in (0.01, 0.5, 0.8, 0.95, 0.99, 0.9999):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_interval_equals_scipys():
    values = [3.0, 5.5, 4.0, 9.0]
    expected = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values, 0.9) == pytest.approx(expected)


def test_one_value_has_no_interval():
    assert t_interval([1.0]) is None
    assert t_interval([]) is None
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_so_many_intervals_hold_the_mean(count):
    random, trials = np.random.default_rng(count), 2000
    held = sum(low <= 7 <= high for low, high in (t_interval(row, 0.8) for row in random.normal(7, 3, (trials, count))))
    assert held / trials == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / trials) ** 0.5)
