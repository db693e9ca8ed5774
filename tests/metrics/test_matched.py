import math

import numpy as np
import pytest

from alitok.core.errors import AlitokError
from alitok.metrics.matched import RDCurve, RDPoint, compare_at_matched_psnr, psnr_range, rate_delta, t_interval

NONE = np.empty(0)


def curve(*points):
    """Of (PSNR, bits), smallest codebook first, without images."""
    return RDCurve(tuple(RDPoint(64 * 2**n, psnr, bits, NONE, NONE) for n, (psnr, bits) in enumerate(points)))


def imaged(count, means, seed):
    """Of (PSNR, bits) with images around them."""
    random = np.random.default_rng(seed)
    points = []
    for number, (psnr, bits) in enumerate(means):
        psnrs, codes = psnr + 2 * random.normal(size=count), bits + 20 * random.normal(size=count)
        points.append(RDPoint(64 * 2**number, psnrs.mean(), codes.mean(), psnrs, codes))
    return RDCurve(tuple(points))


def test_straight_lines_have_the_analytic_difference():
    # b = 10 p - 100 on [20, 24] and b = 8 p - 70 on [21, 26]: b2 - b1 = 30 - 2 p, on [21, 24]
    first, second = (curve(*((p, f(p)) for p in ps)) for f, ps in _LINES)
    found = rate_delta(first, second)
    assert found[:2] == (21, 24)
    assert found.difference == pytest.approx(30 - 2 * 22.5)
    assert found.middle == pytest.approx(30 - 2 * 22.5)
    assert found.relative == pytest.approx((30 - 45) / (225 - 100))
    back = rate_delta(second, first)
    assert (back.difference, back.middle) == pytest.approx((-found.difference, -found.middle))


_LINES = ((lambda p: 10 * p - 100, (20, 21.5, 24)), (lambda p: 8 * p - 70, (21, 23, 26)))


def test_piecewise_linear_curves_equal_sums_of_many_small_steps():
    random = np.random.default_rng(3)
    for _ in range(20):
        curves = [
            curve(*zip(np.sort(random.uniform(*ends, 4)), np.sort(random.uniform(50, 90, 4)), strict=True))
            for ends in ((20, 24), (21, 25))
        ]
        found = rate_delta(*curves)
        knots = [[(point.psnr, point.bits) for point in each.points] for each in curves]
        low, high = max(line[0][0] for line in knots), min(line[-1][0] for line in knots)
        if low > high:
            assert all(map(math.isnan, found))
            continue
        places = low + (np.arange(20_000) + 0.5) / 20_000 * (high - low)
        first, second = (np.interp(places, *zip(*line, strict=True)) for line in knots)
        assert found[:2] == pytest.approx((low, high))
        assert found.difference == pytest.approx((second - first).mean(), abs=1e-5)
        assert found.relative == pytest.approx((second - first).mean() / first.mean(), abs=1e-6)
        middle = np.subtract(*(np.interp((low + high) / 2, *zip(*line, strict=True)) for line in knots[::-1]))
        assert found.middle == pytest.approx(middle)


def test_dominated_points_are_left_out():
    # The second has fewer dB for more bits than the first; the fourth as many dB as the last for more bits; the fifth
    # more bits for as many dB as itself.
    points = [(21, 50), (20, 60), (23, 70), (24, 95), (24, 90)]
    line = curve(*points)
    assert [(p.psnr, p.bits) for p in line.frontier] == [(21, 50), (23, 70), (24, 90)]
    assert [(p.psnr, p.bits) for p in line.dominated] == [(20, 60), (24, 95)]
    assert psnr_range([line]) == (21, 24)
    assert psnr_range([curve((20, 50), (24, 70)), curve((19, 50), (23, 70))]) == (19, 24)
    other = curve((20, 45), (25, 95))
    assert rate_delta(other, line) == rate_delta(other, curve((21, 50), (23, 70), (24, 90)))
    turned = RDCurve(line.points[::-1])
    assert rate_delta(other, turned) == rate_delta(other, line)


def test_a_point_that_dominates_all_is_the_whole_curve():
    line = curve((20, 60), (22, 50), (21, 55))
    assert [p.psnr for p in line.frontier] == [22]
    found = rate_delta(line, curve((21, 50), (23, 62)))
    assert found == (22, 22, 6, 0.12, 6)


def test_a_single_point_is_compared_at_its_psnr():
    line, point = curve((20, 50), (24, 70)), curve((23, 60))
    assert rate_delta(line, point) == pytest.approx((23, 23, -5, -5 / 65, -5), nan_ok=True)
    assert rate_delta(point, point) == (23, 23, 0, 0, 0)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([(24.5, 60), (25, 70)], (24.5, 25)),
        ([(19.5, 60)], (19.5, 19.5)),
        ([], None),
        ([(math.nan, 60), (22, math.inf), (math.inf, 50)], None),
    ],
)
def test_curves_without_a_common_range_have_no_difference(other, expected):
    line, other = curve((20, 50), (24, 70)), curve(*other)
    assert all(map(math.isnan, rate_delta(line, other)))
    assert psnr_range([other]) == expected
    whole = compare_at_matched_psnr({0: line}, {0: other})
    assert (whole.difference, whole.bounds, whole.used, list(whole.by_seed)) == (None, None, (), [0])


def test_beyond_another_curve_the_bits_compare_with_its_highest_point():
    low = curve((20, 50), (24, 70))
    assert curve((25, 50)).bits_saved_beyond(low) == 20
    assert curve((21, 50), (25, 75), (26, 80)).bits_saved_beyond(low) == -5
    for other in (low, curve((24, 50)), curve()):
        assert math.isnan(other.bits_saved_beyond(low))
    assert math.isnan(low.bits_saved_beyond(curve()))


def test_identical_curves_differ_by_zero_in_every_resample():
    one = imaged(50, ((20, 50), (22, 60), (23, 90)), 0)
    found = compare_at_matched_psnr({0: one}, {0: one})
    assert found.difference == (0, None, (0, 0))
    assert found.relative == (0, None, (0, 0))
    assert found.middle == (0, None, (0, 0))


def slow(first, second, rows):
    """Difference, relative and middle of some images by a sum of small steps."""
    lines = []
    for each in (first, second):
        means = sorted((point.image_psnr[rows].mean(), point.image_bits[rows].mean()) for point in each.points)
        lines.append([m for m in means if not any(o != m and o[0] >= m[0] and o[1] <= m[1] for o in means)])
    low, high = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    if low > high:
        return [math.nan] * 3
    places = low + (np.arange(4000) + 0.5) / 4000 * (high - low)
    bits = [np.interp(places, *zip(*line, strict=True)) for line in lines]
    apart = (bits[1] - bits[0]).mean()
    middle = [np.interp((low + high) / 2, *zip(*line, strict=True)) for line in lines]
    return [apart, apart / bits[0].mean(), middle[1] - middle[0]]


def test_intervals_over_images_equal_brute_force():
    # Few images and close points, so that the points that count change from resample to resample.
    firsts = {seed: imaged(12, ((20, 50), (20.5, 55), (23, 80)), seed) for seed in (0, 4)}
    seconds = {seed: imaged(12, ((20.5, 48), (21, 50), (23.5, 70)), seed + 10) for seed in (0, 4)}
    found = compare_at_matched_psnr(firsts, seconds, level=0.9, resamples=400, seed=7)
    random, drawn = np.random.default_rng(7), []
    for count in (256, 144):
        for times in random.multinomial(12, np.full(12, 1 / 12), count):
            rows = np.repeat(np.arange(12), times)
            drawn.append(np.mean([slow(firsts[seed], seconds[seed], rows) for seed in (0, 4)], axis=0))
    drawn = [values for values in drawn if np.isfinite(values).all()]
    assert 380 < len(drawn) < 400  # in the others the curves part
    ends = np.quantile(drawn, [0.05, 0.95], axis=0).T
    exact = np.mean([slow(firsts[seed], seconds[seed], np.arange(12)) for seed in (0, 4)], axis=0)
    for estimate, value, expected in zip((found.difference, found.relative, found.middle), exact, ends, strict=True):
        assert estimate.value == pytest.approx(value, abs=1e-4)
        assert estimate.images == pytest.approx(expected, abs=1e-4)
        assert estimate.trainings is not None


def test_resamples_are_the_same_for_both_curves():
    """Images that are hard for all tokenizers do not widen the interval of their difference."""
    random = np.random.default_rng(0)
    hard, count = 5 * random.normal(size=200), 200
    curves = []
    for offset in (0, -4):
        points = []
        for number, (psnr, bits) in enumerate(((20, 50), (24, 90))):
            psnrs = psnr + random.normal(size=count) / 10
            codes = bits + offset + hard + random.normal(size=count) / 10
            points.append(RDPoint(number + 1, psnrs.mean(), codes.mean(), psnrs, codes))
        curves.append(RDCurve(tuple(points)))
    low, high = compare_at_matched_psnr({0: curves[0]}, {0: curves[1]}).bounds
    assert low < -4 < high
    assert high - low < 0.4  # apart, 4 * 5 / sqrt(200) = 1.4


def test_the_same_seed_gives_the_same_resamples():
    pair = {0: imaged(30, ((20, 50), (24, 90)), 1)}, {0: imaged(30, ((21, 50), (25, 90)), 2)}
    found = [compare_at_matched_psnr(*pair, resamples=300, seed=seed).bounds for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_the_mean_is_over_the_seeds_with_a_common_range():
    firsts = {0: curve((20, 50), (24, 90)), 1: curve((20, 52), (24, 92)), 2: curve((30, 50)), 3: curve((20, 0))}
    seconds = {2: curve((20, 50)), 0: curve((20, 40), (24, 80)), 1: curve((20, 40), (24, 80))}
    found = compare_at_matched_psnr(firsts, seconds)
    assert found.difference.value == pytest.approx(-11)
    # t = 12.706 for one degree of freedom; the standard error of -10 and -12 is 1
    assert found.bounds == found.difference.trainings == pytest.approx((-11 - 12.7062, -11 + 12.7062), abs=1e-4)
    assert found.difference.images is None
    assert set(found.by_seed) == {0, 1, 2}
    assert math.isnan(found.by_seed[2].difference)
    assert len(found.used) == 2
    assert compare_at_matched_psnr({0: firsts[0]}, {1: firsts[1]}).by_seed == {}


def test_one_seed_has_the_interval_over_its_images():
    found = compare_at_matched_psnr({5: imaged(30, ((20, 50), (24, 90)), 1)}, {5: imaged(30, ((21, 50), (25, 90)), 2)})
    assert found.difference.trainings is None
    assert found.bounds == found.difference.images
    assert found.bounds.low < found.difference.value < found.bounds.high
    bare = compare_at_matched_psnr({0: curve((20, 50), (24, 90))}, {0: curve((21, 50))})
    assert bare.bounds is None


def test_curves_without_a_common_range_in_many_resamples_have_no_interval():
    first = imaged(20, ((20, 50), (22, 90)), 1)
    edge = first.frontier[-1].psnr
    psnrs = edge - 0.01 + 5 * (values := np.random.default_rng(0).normal(size=20)) - 5 * values.mean()
    second = RDCurve((RDPoint(64, psnrs.mean(), 80.0, psnrs, np.full(20, 80.0)),))
    found = compare_at_matched_psnr({0: first}, {0: second})
    assert found.difference is not None
    assert found.bounds is None


def test_the_intervals_over_trainings_have_their_coverage():
    random, held, trials = np.random.default_rng(11), 0, 300
    for _ in range(trials):
        # The second takes 5 bits fewer at any PSNR; trainings scatter along and across the curves.
        curves = []
        for offset in (0, -5):
            seeds = {}
            for seed in range(3):
                psnrs = np.array([20, 22, 24]) + random.normal(0, 0.2)
                seeds[seed] = curve(*zip(psnrs, 10 * psnrs - 150 + offset + random.normal(0, 3), strict=True))
            curves.append(seeds)
        low, high = compare_at_matched_psnr(*curves, level=0.9).bounds
        held += low <= -5 <= high
    assert held / trials == pytest.approx(0.9, abs=4 * (0.9 * 0.1 / trials) ** 0.5)


def test_points_of_other_images_are_rejected():
    with pytest.raises(AlitokError, match="20 and 30 validation images"):
        compare_at_matched_psnr({0: imaged(20, ((20, 50),) * 2, 1)}, {0: imaged(30, ((20, 50), (24, 90)), 2)})
    with pytest.raises(AlitokError, match="mean PSNR of codebook size 64 is 20"):
        RDPoint(64, 20.0, 50.0, np.full(3, 21.0), np.full(3, 50.0))
    with pytest.raises(AlitokError, match="mean bits"):
        RDPoint(64, 21.0, 50.0, np.full(3, 21.0), np.full(3, 5.0))
    RDPoint(64, math.inf, 50.0, np.array([math.inf, 21.0]), np.full(2, 50.0))


def test_points_that_are_not_finite_are_left_out():
    line = curve((20, 50), (math.nan, 60), (24, 70))
    assert rate_delta(line, curve((20, 50), (24, 70))) == (20, 24, 0, 0, 0)
    assert len(line.dominated) == 1
    good = imaged(30, ((20, 50), (24, 90)), 1)
    psnrs = np.full(30, 25.0)
    psnrs[0] = math.inf
    bad = RDPoint(999, math.inf, 95.0, psnrs, np.full(30, 95.0))
    found = compare_at_matched_psnr({0: RDCurve((*good.points, bad))}, {0: good})
    assert found.difference == (0, None, (0, 0))


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
