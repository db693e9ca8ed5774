import math

import numpy as np
import pytest

from alitok.core.errors import AlitokError
from alitok.metrics.matched import Curve, Point, bits_at_matched_psnr, compare_at_matched_psnr, reach

NONE = np.empty(0)


def curve(*points):
    """Of (PSNR, bits), smallest codebook first, without images."""
    return Curve(tuple(Point(64 * 2**n, psnr, bits, NONE, NONE) for n, (psnr, bits) in enumerate(points)))


def imaged(count, means, seed):
    """Of (PSNR, bits) with images around them."""
    random = np.random.default_rng(seed)
    points = []
    for number, (psnr, bits) in enumerate(means):
        psnrs, codes = psnr + 2 * random.normal(size=count), bits + 20 * random.normal(size=count)
        points.append(Point(64 * 2**number, psnrs.mean(), codes.mean(), psnrs, codes))
    return Curve(tuple(points))


def test_straight_lines_have_the_difference_of_their_formulas():
    # b = 10 p - 100 on [20, 24] and b = 8 p - 70 on [21, 26]: b2 - b1 = 30 - 2 p, on [21, 24]
    first, second = (curve(*((p, f(p)) for p in ps)) for f, ps in _LINES)
    found = bits_at_matched_psnr(first, second)
    assert found[:2] == (21, 24)
    assert found.difference == pytest.approx(30 - 2 * 22.5)
    assert found.middle == pytest.approx(30 - 2 * 22.5)
    assert found.relative == pytest.approx((30 - 45) / (225 - 100))
    assert found.reason == ""
    back = bits_at_matched_psnr(second, first)
    assert (back.difference, back.middle) == pytest.approx((-found.difference, -found.middle))


_LINES = ((lambda p: 10 * p - 100, (20, 21.5, 24)), (lambda p: 8 * p - 70, (21, 23, 26)))


def test_broken_lines_equal_sums_of_many_small_steps():
    random = np.random.default_rng(3)
    for _ in range(20):
        curves = [
            curve(*zip(np.sort(random.uniform(*ends, 4)), np.sort(random.uniform(50, 90, 4)), strict=True))
            for ends in ((20, 24), (21, 25))
        ]
        found = bits_at_matched_psnr(*curves)
        knots = [[(point.psnr, point.bits) for point in each.points] for each in curves]
        low, high = max(line[0][0] for line in knots), min(line[-1][0] for line in knots)
        if low > high:
            assert found.reason
            continue
        places = low + (np.arange(20_000) + 0.5) / 20_000 * (high - low)
        first, second = (np.interp(places, *zip(*line, strict=True)) for line in knots)
        assert found[:2] == pytest.approx((low, high))
        assert found.difference == pytest.approx((second - first).mean(), abs=1e-5)
        assert found.relative == pytest.approx((second - first).mean() / first.mean(), abs=1e-6)
        middle = np.subtract(*(np.interp((low + high) / 2, *zip(*line, strict=True)) for line in knots[::-1]))
        assert found.middle == pytest.approx(middle)


def test_points_that_another_one_beats_are_left_out():
    # The second has fewer dB for more bits than the first; the fourth as many dB as the last for more bits; the fifth
    # more bits for as many dB as itself.
    points = [(21, 50), (20, 60), (23, 70), (24, 95), (24, 90)]
    line = curve(*points)
    assert [(p.psnr, p.bits) for p in line.frontier] == [(21, 50), (23, 70), (24, 90)]
    assert [(p.psnr, p.bits) for p in line.left_out] == [(20, 60), (24, 95)]
    assert reach([line]) == "21.00 to 24.00 dB"
    other = curve((20, 45), (25, 95))
    assert bits_at_matched_psnr(other, line) == bits_at_matched_psnr(other, curve((21, 50), (23, 70), (24, 90)))
    turned = Curve(line.points[::-1])
    assert bits_at_matched_psnr(other, turned) == bits_at_matched_psnr(other, line)


def test_one_that_beats_all_is_a_single_point():
    line = curve((20, 60), (22, 50), (21, 55))
    assert [p.psnr for p in line.frontier] == [22]
    found = bits_at_matched_psnr(line, curve((21, 50), (23, 62)))
    assert found == (22, 22, 6, 0.12, 6, "")


def test_a_single_point_is_compared_where_it_stands():
    line, point = curve((20, 50), (24, 70)), curve((23, 60))
    assert bits_at_matched_psnr(line, point) == pytest.approx((23, 23, -5, -5 / 65, -5, ""), nan_ok=True)
    assert bits_at_matched_psnr(point, point) == (23, 23, 0, 0, 0, "")


@pytest.mark.parametrize(
    ("other", "reach"),
    [
        ([(24.5, 60), (25, 70)], "24.50 to 25.00 dB"),
        ([(19.5, 60)], "19.50 dB"),
        ([], "no finite PSNR"),
        ([(math.nan, 60), (22, math.inf), (math.inf, 50)], "no finite PSNR"),
    ],
)
def test_without_a_common_range_there_is_a_reason(other, reach):
    line = curve((20, 50), (24, 70))
    found = bits_at_matched_psnr(line, curve(*other))
    assert all(map(math.isnan, found[:5]))
    assert found.reason == f"no PSNR in common: the first has 20.00 to 24.00 dB, the second {reach}"
    whole = compare_at_matched_psnr({0: line}, {0: curve(*other)})
    assert (whole.difference, whole.bounds) == (None, None)
    assert whole.reason == whole.confidence() == found.reason.replace("common:", "common in any seed:")


def test_ranges_of_seeds_that_never_meet_are_told_together():
    firsts = {0: curve((20, 50), (24, 70)), 1: curve((19, 50), (23, 70))}
    found = compare_at_matched_psnr(firsts, {0: curve((24.5, 60)), 1: curve((23.5, 60))})
    assert found.reason == (
        "no PSNR in common in any seed: the first has 19.00 to 24.00 dB, the second 23.50 to 24.50 dB"
    )


def test_beyond_another_curve_its_highest_point_is_what_there_is_to_compare_with():
    low = curve((20, 50), (24, 70))
    assert curve((25, 50)).spared_beyond(low) == 20
    assert curve((21, 50), (25, 75), (26, 80)).spared_beyond(low) == -5
    for other in (low, curve((24, 50)), curve()):
        assert math.isnan(other.spared_beyond(low))
    assert math.isnan(low.spared_beyond(curve()))


def test_points_that_are_not_finite_are_left_out():
    line = curve((20, 50), (math.nan, 60), (24, 70))
    assert bits_at_matched_psnr(line, curve((20, 50), (24, 70))) == (20, 24, 0, 0, 0, "")
    assert len(line.left_out) == 1


def test_identical_curves_differ_by_nothing_in_every_resample():
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


def test_images_are_drawn_together_in_both():
    """What all tokenizers find hard alike is no doubt about their difference."""
    random = np.random.default_rng(0)
    hard, count = 5 * random.normal(size=200), 200
    curves = []
    for offset in (0, -4):
        points = []
        for number, (psnr, bits) in enumerate(((20, 50), (24, 90))):
            psnrs = psnr + random.normal(size=count) / 10
            codes = bits + offset + hard + random.normal(size=count) / 10
            points.append(Point(number + 1, psnrs.mean(), codes.mean(), psnrs, codes))
        curves.append(Curve(tuple(points)))
    low, high = compare_at_matched_psnr({0: curves[0]}, {0: curves[1]}).bounds
    assert low < -4 < high
    assert high - low < 0.4  # apart, 4 * 5 / sqrt(200) = 1.4


def test_the_same_seed_draws_the_same():
    pair = {0: imaged(30, ((20, 50), (24, 90)), 1)}, {0: imaged(30, ((21, 50), (25, 90)), 2)}
    found = [compare_at_matched_psnr(*pair, resamples=300, seed=seed).bounds for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_seeds_that_both_have_decide_and_the_others_are_told():
    firsts = {0: curve((20, 50), (24, 90)), 1: curve((20, 52), (24, 92)), 2: curve((30, 50)), 3: curve((20, 0))}
    seconds = {2: curve((20, 50)), 0: curve((20, 40), (24, 80)), 1: curve((20, 40), (24, 80))}
    found = compare_at_matched_psnr(firsts, seconds)
    assert found.difference.value == pytest.approx(-11)
    # t = 12.706 for one degree of freedom; the standard error of -10 and -12 is 1
    assert found.bounds == found.difference.trainings == pytest.approx((-11 - 12.7062, -11 + 12.7062), abs=1e-4)
    assert found.difference.images is None
    assert set(found.by_seed) == {0, 1, 2}
    assert "no PSNR in common" in found.by_seed[2].reason
    assert len(found.used) == 2
    assert "The 95 % interval over trainings is Student's" in found.confidence()
    assert "neither which images were held out" in found.confidence()
    assert compare_at_matched_psnr({0: firsts[0]}, {1: firsts[1]}).reason == "no seed in common"


def test_one_seed_has_the_interval_of_its_images():
    found = compare_at_matched_psnr({5: imaged(30, ((20, 50), (24, 90)), 1)}, {5: imaged(30, ((21, 50), (25, 90)), 2)})
    assert found.difference.trainings is None
    assert found.bounds == found.difference.images
    assert found.bounds.low < found.difference.value < found.bounds.high
    assert "not that another training" in found.confidence()
    bare = compare_at_matched_psnr({0: curve((20, 50), (24, 90))}, {0: curve((21, 50))})
    assert bare.bounds is None
    assert bare.confidence().endswith("there is no interval.")


def test_curves_that_part_in_many_resamples_have_no_interval():
    first = imaged(20, ((20, 50), (22, 90)), 1)
    edge = first.frontier[-1].psnr
    psnrs = edge - 0.01 + 5 * (values := np.random.default_rng(0).normal(size=20)) - 5 * values.mean()
    second = Curve((Point(64, psnrs.mean(), 80.0, psnrs, np.full(20, 80.0)),))
    found = compare_at_matched_psnr({0: first}, {0: second})
    assert found.difference is not None
    assert found.bounds is None


def test_the_intervals_over_trainings_hold_the_truth_as_often_as_they_say():
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


def test_other_images_are_refused():
    with pytest.raises(AlitokError, match="20 and 30 validation images"):
        compare_at_matched_psnr({0: imaged(20, ((20, 50),) * 2, 1)}, {0: imaged(30, ((20, 50), (24, 90)), 2)})
    with pytest.raises(AlitokError, match="mean PSNR of a codebook of 64 is 20"):
        Point(64, 20.0, 50.0, np.full(3, 21.0), np.full(3, 50.0))
    with pytest.raises(AlitokError, match="mean bits"):
        Point(64, 21.0, 50.0, np.full(3, 21.0), np.full(3, 5.0))
    Point(64, math.inf, 50.0, np.array([math.inf, 21.0]), np.full(2, 50.0))


def test_a_image_without_error_takes_its_point_out_and_no_other():
    good = imaged(30, ((20, 50), (24, 90)), 1)
    psnrs = np.full(30, 25.0)
    psnrs[0] = math.inf
    bad = Point(999, math.inf, 95.0, psnrs, np.full(30, 95.0))
    found = compare_at_matched_psnr({0: Curve((*good.points, bad))}, {0: good})
    assert found.difference == (0, None, (0, 0))
