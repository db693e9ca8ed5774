import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.moments import BlockMoments, Moments, merged


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(5, 5, generator=generator)
    return torch.randn(1300, 5, generator=generator) @ mixed + 40


def _close(found, wanted):
    return (
        found.count == wanted.count
        and torch.allclose(found.mean, wanted.mean, rtol=1e-12, atol=0)
        and torch.allclose(found.covariance(), wanted.covariance(), rtol=1e-9, atol=1e-12)
    )


def _moments_of(features, sizes):
    moments = Moments(features.shape[1])
    for part in features.split(sizes):
        moments.update(part)
    return moments


def test_mean_and_covariance_equal_numpys(features):
    moments = _moments_of(features, [1300])
    values = features.double().numpy()
    assert moments.count == 1300
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance(), np.cov(values, rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("sizes", [[1] * 1300, [1299, 1], [512, 512, 276], [0, 700, 600]])
def test_batching_changes_nothing(features, sizes):
    assert _close(_moments_of(features, sizes), _moments_of(features, [1300]))


def test_reading_between_updates_changes_nothing(features):
    moments = Moments(5)
    for part in features.split(100):
        moments.update(part)
        assert moments.mean.isfinite().all()
    assert _close(moments, _moments_of(features, [1300]))


def test_a_large_mean_costs_no_precision():
    spread = torch.randn(400, 3, dtype=torch.float64)
    far, near = _moments_of(spread + 1e6, [3, 397]), _moments_of(spread, [400])
    assert torch.allclose(far.covariance(), near.covariance(), rtol=1e-7)


@pytest.mark.parametrize("cuts", [[0, 1300], [1, 1299], [400, 400, 500]])
def test_parts_are_merged_in_any_order(features, cuts):
    parts = [_moments_of(part, [len(part)]) for part in features.split(cuts)]
    assert _close(merged(parts[::-1]), _moments_of(features, [1300]))


def test_weighted_parts_count_that_often(features):
    first, second = features[:30], features[30:100]
    found = merged([_moments_of(first, [30]), _moments_of(second, [70]), _moments_of(features, [1300])], [3, 1, 0])
    assert _close(found, _moments_of(torch.cat([first, first, second, first]), [160]))


def test_results_are_not_changed_by_later_updates(features):
    moments = _moments_of(features[:50], [50])
    again = Moments.of(moments.count, moments.mean, moments.products)
    before = moments.products.clone()
    again.update(features[50:])
    assert torch.equal(moments.products, before)
    assert _close(again, _moments_of(features, [1300]))


def test_all_reduce_covers_the_images_of_all_processes(features, together):
    def work(world):
        moments = _moments_of(
            features[world.rank :: world.size], [10] * (len(features[world.rank :: world.size]) // 10)
        )
        whole = moments.all_reduced(world)
        return whole.count, whole.mean.numpy(), whole.products.numpy()

    first, second = together(work)
    wanted = _moments_of(features, [1300])
    assert first[0] == second[0] == 1300
    for found in (first, second):
        np.testing.assert_allclose(found[1], wanted.mean, rtol=1e-12)
        np.testing.assert_allclose(found[2], wanted.products, rtol=1e-9)


def test_a_process_without_images_changes_nothing(features, together):
    def work(world):
        moments, blocks = Moments(5), BlockMoments(5, 2)
        if world.main:
            moments.update(features)
            blocks.update(features, torch.arange(1300))
        return moments.all_reduced(world).products.numpy(), blocks.all_reduced(world).total().products.numpy()

    for results in together(work):
        for found in results:
            np.testing.assert_allclose(found, _moments_of(features, [1300]).products, rtol=1e-9)


def test_features_that_are_not_finite_are_counted_and_rejected(features):
    features[3, 1], features[7], features[9, 0] = torch.nan, torch.inf, -torch.inf
    moments = Moments(5)
    with pytest.raises(AlitokError, match="features of 3 of 1300 images are not finite"):
        moments.update(features)
    assert moments.count == 0
    with pytest.raises(AlitokError, match="3 of 1300"):
        BlockMoments(5).update(features, torch.arange(1300))


def test_one_image_has_no_covariance(features):
    with pytest.raises(AlitokError, match="at least two images, not 1"):
        _moments_of(features[:1], [1]).covariance()


def test_half_precision_is_accumulated_in_float64(features):
    half = features.half()
    assert _close(_moments_of(half, [1300]), _moments_of(half.double(), [1300]))


@pytest.mark.parametrize("order", ["sorted by class", "classes in turn"])
def test_blocks_are_alike_for_any_order_of_the_classes(order):
    numbers = torch.arange(8000)
    classes = numbers // 400 if order == "sorted by class" else numbers % 20
    blocks = BlockMoments(20, 20)
    blocks.update(torch.nn.functional.one_hot(classes).float(), numbers)
    fractions = torch.stack([block.mean for block in blocks.blocks])
    assert all(300 < block.count < 500 for block in blocks.blocks)
    assert fractions.min() > 0.015
    assert fractions.max() < 0.1


def test_blocks_depend_on_numbers_only_and_add_up(features):
    numbers = torch.arange(1300)
    whole, parts = BlockMoments(5, 4), BlockMoments(5, 4)
    whole.update(features, numbers)
    for start in (1000, 0, 300):
        rows = slice(start, {1000: 1300, 0: 300, 300: 1000}[start])
        parts.update(features[rows], numbers[rows])
    for one, other in zip(whole.blocks, parts.blocks, strict=True):
        assert _close(one, other)
    assert _close(whole.total(), _moments_of(features, [1300]))
