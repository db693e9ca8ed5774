"""Mutual information between positions, against sums over tables of counts and what is known by construction."""

import math
from collections import Counter

import numpy as np
import pytest

from alitok.metrics.mutual import mutual_information


def uniform(count, length, size, seed=0):
    return np.random.default_rng(seed).integers(0, size, (count, length))


def brute(one, other):
    """Plug-in mutual information of two columns, in bits."""
    count, a, b = len(one), Counter(one), Counter(other)
    return sum(
        n / count * math.log2(n * count / (a[x] * b[y])) for (x, y), n in Counter(zip(one, other, strict=True)).items()
    )


@pytest.mark.parametrize("size", [2, 5])
def test_equals_sums_over_tables_of_counts(size):
    codes = uniform(40, 5, size)
    codes[:, 3] = (codes[:, 1] + codes[:, 3] // 2) % size + 1000  # any whole numbers
    found = mutual_information(codes, seed=3, shuffles=2)
    orders = np.random.default_rng(3)
    shuffled = [codes[orders.permutation(40)] for _ in range(2)]
    for i in range(5):
        shares = np.bincount(codes[:, i]) / 40
        assert found.entropy[i] == pytest.approx(-sum(share * math.log2(share) for share in shares if share))
        for j in range(5):
            if i == j:
                assert np.isnan([found.bits[i, i], found.chance[i, i], found.normalized[i, i]]).all()
                continue
            low, high = min(i, j), max(i, j)
            chance = np.mean([brute(codes[:, low].tolist(), each[:, high].tolist()) for each in shuffled])
            plug_in = brute(codes[:, i].tolist(), codes[:, j].tolist())
            assert found.chance[i, j] == pytest.approx(chance)
            assert found.bits[i, j] == pytest.approx(plug_in - chance)
            assert found.normalized[i, j] == pytest.approx((plug_in - chance) / found.entropy[i])
    assert np.array_equal(found.bits, found.bits.T, equal_nan=True)
    assert (found.images, found.exact) == (40, True)


def test_independent_codes_tell_nothing_though_the_plug_in_estimate_says_so():
    found = mutual_information(uniform(5000, 20, 16))
    expected = 15 * 15 / (2 * 5000 * math.log(2))  # Miller's bias
    assert np.nanmean(found.chance) == pytest.approx(expected, rel=0.05)
    off = found.bits[np.triu_indices(20, 1)]
    assert abs(off.mean()) < 4 * off.std() / len(off) ** 0.5
    assert abs(found.mean_bits()) < 0.02 * expected
    assert found.too_few_images


def test_copied_codes_tell_all_of_one_another():
    codes = uniform(50_000, 3, 8)
    codes[:, 2] = 7 - codes[:, 0]
    found = mutual_information(codes)
    assert found.bits[0, 2] == pytest.approx(found.entropy[0], abs=0.002)
    assert found.normalized[2, 0] == pytest.approx(1, abs=0.001)
    assert abs(found.bits[0, 1]) < 0.001
    assert not found.too_few_images
    assert found.mean_bits_at(2) == found.bits[2, 0]
    assert found.mean_bits_at(1) == pytest.approx(found.bits[[1, 2], [0, 1]].mean())


def test_blocks_of_any_size_give_the_same_and_so_does_the_same_seed():
    codes = uniform(30, 9, 4)
    whole = mutual_information(codes, seed=1)
    for size in (1, 100, 1000):
        found = mutual_information(codes, seed=1, block_values=size)
        assert np.array_equal(found.bits, whole.bits, equal_nan=True)
    assert not np.array_equal(mutual_information(codes, seed=2).bits, whole.bits, equal_nan=True)


def test_of_many_pairs_a_sample_is_taken_with_all_neighbours():
    codes = uniform(30, 40, 4)
    whole, part = (mutual_information(codes, seed=5, lags=(1, 6), max_pairs=most) for most in (20_000, 100))
    assert (whole.exact, part.exact) == (True, False)
    there = np.isfinite(part.bits)
    assert there.sum() == 200
    assert np.array_equal(there, there.T)
    assert np.isfinite(np.diagonal(part.bits, -1)).all()
    assert np.array_equal(part.bits[there], whole.bits[there])
    assert np.isfinite(np.diagonal(part.bits, -6)).all()
    assert part.mean_bits_at(1) == whole.mean_bits_at(1)
    assert part.mean_bits_at(6, 10) == np.diagonal(whole.bits[10:, 10:], 6).mean()
    again, other = (mutual_information(codes, seed=seed, lags=(1, 6), max_pairs=100) for seed in (5, 6))
    assert np.array_equal(again.bits, part.bits, equal_nan=True)
    assert not np.array_equal(np.isfinite(other.bits), there)


def test_a_code_that_is_always_the_same_has_nothing_to_tell():
    codes = uniform(100, 3, 4)
    codes[:, 1] = 9
    found = mutual_information(codes)
    assert found.entropy[1] == 0
    assert found.bits[0, 1] == found.bits[1, 2] == 0
    assert np.isnan(found.normalized[1]).all()
    assert found.normalized[0, 1] == 0
    single = mutual_information(codes[:, :1])
    assert np.isnan([single.mean_bits(), single.mean_bits_at(1)]).all()
    assert not single.too_few_images


def test_large_codes_do_not_overflow():
    codes = uniform(50, 4, 3)
    assert np.array_equal(mutual_information(codes * 2**29).bits, mutual_information(codes).bits, equal_nan=True)
