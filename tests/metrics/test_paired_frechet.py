"""The distance of images from what was made of each: chance that is in both sets does not count."""

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.frechet import frechet_bias, frechet_distance, frechet_interval
from alitok.metrics.moments import BlockMoments, Moments
from alitok.metrics.paired_frechet import paired_bias, paired_interval


def drawn(count, seed, noise=0.5, width=6):
    """Features (count, D) of images, and of what was made of them."""
    random = np.random.default_rng(seed)
    originals = random.normal(size=(count, width)) * np.arange(1, width + 1)
    return torch.from_numpy(originals), torch.from_numpy(originals * 0.9 + noise * random.normal(size=(count, width)))


def blocks(features, number=10):
    found = BlockMoments(features.shape[1], number)
    found.update(features, torch.arange(len(features)))
    return found


def distance(originals, made):
    found = []
    for features in (originals, made):
        moments = Moments(features.shape[1])
        moments.update(features)
        found.append(moments.gaussian())
    return frechet_distance(*found)


def test_perfect_reconstructions_are_at_distance_zero_whatever_their_number():
    originals, _ = drawn(200, 0)
    same = blocks(originals)
    found = paired_interval(same, same)
    assert found == pytest.approx((0, 0, 0, 0), abs=1e-5)
    assert paired_bias(same, same) == pytest.approx(0, abs=1e-5)
    # ... which those for independent sets do not know.
    assert frechet_bias(same, same.total().gaussian()) > 0.1
    assert frechet_interval(same, same.total().gaussian()).high > 0.1


def test_the_value_is_the_distance_and_the_interval_covers_repetitions():
    truth = distance(*drawn(200_000, 99))
    inside, widths, values = 0, [], []
    for seed in range(40):
        originals, made = drawn(500, seed)
        found = paired_interval(blocks(made, 20), blocks(originals, 20), resamples=30)
        assert found.value == pytest.approx(distance(originals, made), rel=1e-9)
        inside += found.low <= truth <= found.high
        widths.append(found.deviation)
        values.append(found.value)
    assert inside >= 32  # of 40: the bias that remains costs a few
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.4)


def test_the_bias_is_what_more_images_take_away():
    truth, few = distance(*drawn(200_000, 99, noise=2.0)), 60
    values, biases = [], []
    for seed in range(300):
        originals, made = drawn(few, seed, noise=2.0)
        values.append(distance(originals, made))
        biases.append(paired_bias(blocks(made, 4), blocks(originals, 4)))
    excess = np.mean(values) - truth
    assert excess > 0.1 * truth, "else there is nothing to tell"
    assert np.mean(biases) == pytest.approx(excess, rel=0.35)


def test_it_is_the_same_each_time_and_for_any_order_of_the_images():
    originals, made = drawn(100, 0)
    found = paired_interval(blocks(made), blocks(originals))
    assert paired_interval(blocks(made), blocks(originals)) == found
    turned = [BlockMoments(6, 10) for _ in range(2)]
    for moments, features in zip(turned, (made, originals), strict=True):
        moments.update(features.flip(0), torch.arange(len(features)).flip(0))
    assert paired_interval(*turned) == pytest.approx(found, rel=1e-9)


def test_too_few_images_are_told():
    originals, made = drawn(3, 0)
    with pytest.raises(AlitokError, match="at least two images in each block"):
        paired_interval(blocks(made), blocks(originals))
    with pytest.raises(AlitokError, match="at least two images in each half"):
        paired_bias(blocks(made, 2), blocks(originals, 2))
