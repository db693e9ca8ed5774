import sys

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.frechet import frechet_bias, frechet_distance, frechet_interval, paired_bias, paired_interval
from alitok.metrics.moments import BlockMoments, Gaussian, Moments, merged


def _gaussian(features):
    return Gaussian(features.double().mean(0), torch.cov(features.double().T).reshape(features.shape[1], -1))


def _by_scipy(a, b):
    from scipy.linalg import sqrtm

    root = sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    apart = (a.mean - b.mean).square().sum()
    return float(apart + a.covariance.trace() + b.covariance.trace()) - 2 * np.trace(root).real


def _by_factors(x, y):
    """Of centred features, the trace of the root is the sum of the singular values of X Y^T: no covariance, no root."""
    x, y = x.double(), y.double()
    a, b = x - x.mean(0), y - y.mean(0)
    shared = torch.linalg.svdvals(a @ b.T).sum() / ((len(x) - 1) * (len(y) - 1)) ** 0.5
    traces = a.square().sum() / (len(x) - 1) + b.square().sum() / (len(y) - 1)
    return float((x.mean(0) - y.mean(0)).square().sum() + traces - 2 * shared)


@pytest.mark.parametrize("dimensions", [1, 3, 60])
def test_equal_to_scipys_square_root_where_that_is_stable(dimensions):
    x = torch.randn(400, dimensions) @ torch.randn(dimensions, dimensions) + 1
    y = torch.randn(500, dimensions) @ torch.randn(dimensions, dimensions)
    a, b = _gaussian(x), _gaussian(y)
    assert frechet_distance(a, b) == pytest.approx(_by_scipy(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(_by_factors(x, y), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_independent_features_differ_by_means_and_standard_deviations():
    mean, deviation = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 2.0, 0.0])
    other, others = torch.tensor([-2.0, -2.0, 1.5]), torch.tensor([3.0, 0.5, 0.2])
    found = frechet_distance(Gaussian(mean, deviation.square().diag()), Gaussian(other, others.square().diag()))
    assert found == pytest.approx(float((mean - other).square().sum() + (deviation - others).square().sum()))


@pytest.mark.parametrize(("first", "second"), [(20, 25), (20, 300), (300, 20), (2, 2)])
def test_fewer_images_than_features(first, second):
    x, y = torch.randn(first, 80) + 0.3, torch.randn(second, 80) * 1.4
    found = frechet_distance(_gaussian(x), _gaussian(y))
    assert found == pytest.approx(_by_factors(x, y), rel=1e-7)


@pytest.mark.parametrize("images", [10, 1000])
def test_the_distance_to_itself_is_zero(images):
    a = _gaussian(torch.randn(images, 40) @ torch.randn(40, 40))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * float(a.covariance.trace()))


def test_incomparable_statistics_are_rejected():
    a = _gaussian(torch.randn(50, 4))
    with pytest.raises(AlitokError, match="Statistics of 4 features cannot be compared with statistics of 6"):
        frechet_distance(a, _gaussian(torch.randn(50, 6)))
    with pytest.raises(AlitokError, match="not finite"):
        frechet_distance(Gaussian(a.mean * torch.nan, a.covariance), a)


def _blocks(features, count):
    blocks = BlockMoments(features.shape[1], count)
    blocks.update(features, torch.arange(len(features)))
    return blocks


def test_a_resample_is_the_distance_of_its_images(monkeypatch):
    reference = _gaussian(torch.randn(200, 6))
    samples = _blocks(torch.randn(90, 6) + 0.5, 3)
    draws = [[0, 0, 2], [1, 1, 1]]
    monkeypatch.setattr(np.random, "default_rng", lambda seed: _Draws(draws))
    found = frechet_interval(samples, reference, resamples=2, level=0.6826894921)
    wanted = [frechet_distance(reference, merged([samples.blocks[i] for i in draw]).gaussian()) for draw in draws]
    assert found.value == pytest.approx(frechet_distance(reference, samples.total().gaussian()), rel=1e-9)
    assert found.std == pytest.approx(np.std(wanted, ddof=1), rel=1e-6)
    assert found.high == pytest.approx(found.value + found.std, rel=1e-6)
    assert found.low == pytest.approx(max(0, found.value - found.std), rel=1e-6)


class _Draws:
    def __init__(self, draws):
        self.draws = iter(draws)

    def integers(self, most, size):
        return np.array(next(self.draws))


def test_the_std_is_that_of_new_samples():
    reference = Gaussian(torch.zeros(4), torch.eye(4))
    new = [torch.randn(600, 4) * 1.2 + 0.3 for _ in range(200)]
    true = float(np.std([frechet_distance(reference, _gaussian(samples)) for samples in new]))
    found = [frechet_interval(_blocks(samples, 30), reference, resamples=60, seed=1).std for samples in new[:10]]
    assert np.mean(found) == pytest.approx(true, rel=0.25)


def test_the_same_seed_gives_the_same_interval():
    reference, samples = _gaussian(torch.randn(200, 6)), _blocks(torch.randn(90, 6) + 0.5, 5)
    first, second = (frechet_interval(samples, reference, resamples=5, seed=3) for _ in range(2))
    assert first == second
    assert frechet_interval(samples, reference, resamples=5, seed=4) != first


def test_too_few_images_per_block_are_rejected():
    blocks = BlockMoments(3, 4)
    blocks.update(torch.randn(1, 3), torch.tensor([0]))
    with pytest.raises(AlitokError, match="at least two images in each block"):
        frechet_interval(blocks, _gaussian(torch.randn(20, 3)))


@pytest.mark.parametrize(
    ("shift", "scale", "images", "blocks"), [(0.0, 1.0, 200, 20), (0.3, 1.4, 300, 20), (0.3, 1.4, 300, 3)]
)
def test_the_bias_is_what_few_samples_add_to_the_true_distance(shift, scale, images, blocks):
    width = 6
    reference = Gaussian(torch.zeros(width), torch.eye(width))
    true = width * (shift**2 + (scale - 1) ** 2)  # of the true Gaussians
    new = [torch.randn(images, width) * scale + shift for _ in range(400)]
    added = float(np.mean([frechet_distance(reference, _gaussian(samples)) for samples in new])) - true
    found = float(np.mean([frechet_bias(_blocks(samples, blocks), reference) for samples in new]))
    assert added > 0.05
    assert found == pytest.approx(added, rel=0.15)


def test_the_bias_is_the_mean_of_two_halves_less_the_whole():
    reference, features = _gaussian(torch.randn(300, 5)), torch.randn(200, 5) + 0.2
    blocks = BlockMoments(5, 2)
    for block, half in zip(blocks.blocks, (features[:100], features[100:]), strict=True):
        block.update(half)
    halves = [frechet_distance(reference, _gaussian(half)) for half in (features[:100], features[100:])]
    wanted = sum(halves) / 2 - frechet_distance(reference, _gaussian(features))
    assert frechet_bias(blocks, reference) == pytest.approx(wanted, rel=1e-6)


def test_with_fewer_samples_than_features_the_bias_is_a_lower_bound():
    width = 80
    reference = Gaussian(torch.zeros(width), torch.eye(width))
    new = [torch.randn(20, width) for _ in range(5)]
    added = min(frechet_distance(reference, _gaussian(samples)) for samples in new)  # the true distance is 0
    assert 0 < max(frechet_bias(_blocks(samples, 4), reference) for samples in new) < added / 2


def test_a_bias_needs_two_halves():
    blocks = BlockMoments(3, 2)
    blocks.blocks[0].update(torch.randn(20, 3))
    blocks.blocks[1].update(torch.randn(1, 3))
    with pytest.raises(AlitokError, match="at least two images in each half"):
        frechet_bias(blocks, _gaussian(torch.randn(20, 3)))


def test_missing_scipy_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.linalg.lapack", None)
    with pytest.raises(AlitokError, match=r"pip install 'alitok\[eval\]'"):
        frechet_distance(_gaussian(torch.randn(20, 3)), _gaussian(torch.randn(20, 3)))


def reconstructed(count, seed, noise=0.5, width=6):
    """Features (count, D) of images and of their reconstructions."""
    random = np.random.default_rng(seed)
    originals = random.normal(size=(count, width)) * np.arange(1, width + 1)
    return torch.from_numpy(originals), torch.from_numpy(originals * 0.9 + noise * random.normal(size=(count, width)))


def distance(originals, made):
    return frechet_distance(_gaussian(originals), _gaussian(made))


def test_perfect_reconstructions_have_distance_zero_for_any_number_of_images():
    originals, _ = reconstructed(200, 0)
    same = _blocks(originals, 10)
    found = paired_interval(same, same)
    assert found == pytest.approx((0, 0, 0, 0), abs=1e-5)
    assert paired_bias(same, same) == pytest.approx(0, abs=1e-5)
    # ... unlike with the functions for independent sets
    assert frechet_bias(same, same.total().gaussian()) > 0.1
    assert frechet_interval(same, same.total().gaussian()).high > 0.1


def test_the_paired_interval_covers_the_true_distance():
    truth = distance(*reconstructed(200_000, 99))
    inside, widths, values = 0, [], []
    for seed in range(40):
        originals, made = reconstructed(500, seed)
        found = paired_interval(_blocks(made, 20), _blocks(originals, 20), resamples=30)
        assert found.value == pytest.approx(distance(originals, made), rel=1e-9)
        inside += found.low <= truth <= found.high
        widths.append(found.std)
        values.append(found.value)
    assert inside >= 32  # of 40: the remaining bias costs a few
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.4)


def test_the_paired_bias_is_what_more_images_remove():
    truth, few = distance(*reconstructed(200_000, 99, noise=2.0)), 60
    values, biases = [], []
    for seed in range(300):
        originals, made = reconstructed(few, seed, noise=2.0)
        values.append(distance(originals, made))
        biases.append(paired_bias(_blocks(made, 4), _blocks(originals, 4)))
    excess = np.mean(values) - truth
    assert excess > 0.1 * truth, "too small to test"
    assert np.mean(biases) == pytest.approx(excess, rel=0.35)


def test_the_paired_interval_does_not_depend_on_the_order_of_the_images():
    originals, made = reconstructed(100, 0)
    found = paired_interval(_blocks(made, 10), _blocks(originals, 10))
    assert paired_interval(_blocks(made, 10), _blocks(originals, 10)) == found
    turned = [BlockMoments(6, 10) for _ in range(2)]
    for moments, features in zip(turned, (made, originals), strict=True):
        moments.update(features.flip(0), torch.arange(len(features)).flip(0))
    assert paired_interval(*turned) == pytest.approx(found, rel=1e-9)


def test_too_few_pairs_are_rejected():
    originals, made = reconstructed(3, 0)
    with pytest.raises(AlitokError, match="at least two images in each block"):
        paired_interval(_blocks(made, 10), _blocks(originals, 10))
    with pytest.raises(AlitokError, match="at least two images in each half"):
        paired_bias(_blocks(made, 2), _blocks(originals, 2))


def test_equal_to_torch_fidelity():
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    a, b = _gaussian(torch.randn(300, 30)), _gaussian(torch.randn(300, 30) * 1.5 + 0.2)
    theirs = fid_statistics_to_metric(
        {"mu": a.mean.numpy(), "sigma": a.covariance.numpy()},
        {"mu": b.mean.numpy(), "sigma": b.covariance.numpy()},
        verbose=False,
    )
    assert frechet_distance(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_constant_features_are_accepted():
    samples, same = Moments(3), torch.ones(5, 3)
    samples.update(same)
    assert frechet_distance(samples.gaussian(), Gaussian(torch.ones(3), torch.eye(3))) == pytest.approx(3)
