import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.kernel_distance import kernel_distance, squared_mmd


def _slow(x, y):
    """The definition, pair by pair."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    x, y = x.tolist(), y.tolist()
    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_equal_to_the_definition():
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64) + 0.3
    assert float(squared_mmd(x, y)) == pytest.approx(_slow(x, y), rel=1e-10)
    found = kernel_distance(x[:7], y, subsets=3, size=7)  # a subset of all is all, in another order
    assert found.mean == pytest.approx(_slow(x[:7], y), rel=1e-10)
    assert found.std == pytest.approx(0, abs=1e-12)


def test_mean_and_std_are_over_the_subsets_of_the_seed():
    samples, reference = torch.randn(40, 3), torch.randn(30, 3)
    random = np.random.default_rng(5)
    values = []
    for _ in range(4):
        x, y = (torch.from_numpy(random.choice(count, 10, replace=False)) for count in (40, 30))
        values.append(_slow(samples[x].double(), reference[y].double()))
    found = kernel_distance(samples, reference, subsets=4, size=10, seed=5)
    assert found == pytest.approx((np.mean(values), np.std(values)), rel=1e-8)
    assert kernel_distance(samples, reference, subsets=4, size=10, seed=6) != found


def test_it_is_unbiased_for_few_images():
    found = [kernel_distance(torch.randn(12, 6), torch.randn(12, 6), subsets=1, size=12).mean for _ in range(400)]
    error = np.std(found) / 20
    assert abs(np.mean(found)) < 4 * error


def test_invalid_features_are_rejected():
    samples, reference = torch.randn(20, 4), torch.randn(30, 4)
    with pytest.raises(AlitokError, match="Subsets of 1000 images cannot be drawn from 20 samples"):
        kernel_distance(samples, reference)
    with pytest.raises(AlitokError, match=r"Subsets of 25 .* from 20 reference images"):
        kernel_distance(reference, samples, size=25)
    with pytest.raises(AlitokError, match="cannot be compared"):
        kernel_distance(samples, torch.randn(30, 5), size=5)
    reference[3, 2] = torch.inf
    with pytest.raises(AlitokError, match="1 of 30 images are not finite"):
        kernel_distance(samples, reference, size=5)


def test_equal_to_torch_fidelity():
    from torch_fidelity.metric_kid import kid_features_to_metric

    samples, reference = torch.rand(120, 40).double(), torch.rand(150, 40).double() * 1.3
    settings = {"kid_subsets": 1, "kid_subset_size": 120, "verbose": False}
    theirs = kid_features_to_metric(samples, reference[:120], **settings)
    found = kernel_distance(samples, reference[:120], subsets=1, size=120)
    assert found.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    theirs = kid_features_to_metric(samples, reference, **settings | {"kid_subsets": 400, "kid_subset_size": 50})
    found = kernel_distance(samples, reference, subsets=400, size=50)
    assert found.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=0.05)  # of other subsets
    assert found.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.2)
