import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.precision_recall import manifold_scores


def _slow(real, samples, neighbors=3, density_neighbors=5):
    """The definitions, by differences and sorting in float64."""
    real, samples = real.double().numpy(), samples.double().numpy()

    def distances(a, b):
        return np.sqrt(np.square(a[:, None] - b[None]).sum(2))

    def radii(a, k):
        table = distances(a, a)
        np.fill_diagonal(table, np.inf)  # an image is not its own neighbor
        return np.sort(table, axis=1)[:, k - 1]

    between = distances(real, samples)
    within = between <= radii(real, density_neighbors)[:, None]
    return (
        (between <= radii(real, neighbors)[:, None]).any(0).mean(),
        (between <= radii(samples, neighbors)[None]).any(1).mean(),
        within.sum() / (density_neighbors * len(samples)),
        within.any(1).mean(),
    )


@pytest.mark.parametrize(("dimensions", "apart"), [(2, 0.5), (1, 0.0), (40, 0.2), (300, 0.05)])
def test_equal_to_the_definitions(dimensions, apart):
    real, samples = torch.randn(83, dimensions), torch.randn(61, dimensions) * 0.9 + apart
    found = manifold_scores(real, samples)
    assert found == pytest.approx(_slow(real, samples), abs=1e-12)
    assert found.precision > 0
    assert found.recall < 1


@pytest.mark.parametrize("max_values", [40, 1000, 10**7])
@pytest.mark.parametrize(("neighbors", "density_neighbors"), [(3, 5), (1, 1), (6, 2)])
def test_block_size_changes_nothing(max_values, neighbors, density_neighbors):
    real, samples = torch.randn(50, 4), torch.randn(37, 4) + 0.4
    found = manifold_scores(
        real, samples, neighbors=neighbors, density_neighbors=density_neighbors, max_values=max_values
    )
    assert found == pytest.approx(_slow(real, samples, neighbors, density_neighbors), abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_copies_have_distance_zero(offset):
    few = torch.randn(12, 700) + offset
    real = torch.cat([few.repeat(5, 1), torch.randn(20, 700) + offset])  # balls of radius 0 around the first twelve
    samples = torch.cat([few[:4], few[:2], torch.randn(9, 700) + offset + 1, real[-3:]])
    assert manifold_scores(real, samples, max_values=5000) == pytest.approx(_slow(real, samples), abs=1e-12)


def test_a_set_compared_with_itself():
    real = torch.randn(64, 30)
    found = manifold_scores(real, real.clone())
    assert found[:2] == (1, 1)
    assert found.coverage == 1
    assert found.density == pytest.approx(6 / 5)  # each ball holds its own image and five others


def test_distant_samples_score_zero_and_one_mode_has_precision_without_recall():
    real = torch.randn(200, 8)
    assert manifold_scores(real, torch.randn(100, 8) + 50) == (0, 0, 0, 0)
    one_mode = manifold_scores(real, torch.randn(100, 8) * 0.1)
    assert one_mode.precision > 0.95
    assert one_mode.recall < 0.1
    assert one_mode.coverage < 0.6


def test_offset_and_scale_of_the_features_change_nothing():
    real, samples = torch.randn(60, 5, dtype=torch.float64), torch.randn(40, 5, dtype=torch.float64)
    wanted = manifold_scores(real, samples)
    assert manifold_scores(real * 2**-30, samples * 2**-30) == wanted
    assert manifold_scores(real + 1e6, samples + 1e6) == wanted


def test_identical_images_are_scored():
    same = torch.ones(8, 3)
    assert manifold_scores(same, same) == (1, 1, pytest.approx(8 / 5), 1)


def test_invalid_features_are_rejected():
    real, samples = torch.randn(20, 4), torch.randn(20, 4)
    with pytest.raises(AlitokError, match="5 real images are too few for 5 nearest neighbors; use at least 6"):
        manifold_scores(real[:5], samples)
    with pytest.raises(AlitokError, match="3 samples are too few for 3 nearest"):
        manifold_scores(real, samples[:3])
    with pytest.raises(AlitokError, match="cannot be compared"):
        manifold_scores(real, torch.randn(20, 5))
    samples[2] = torch.nan
    with pytest.raises(AlitokError, match="1 of 20 images are not finite"):
        manifold_scores(real, samples)


def test_equal_to_torch_fidelity():
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, samples = torch.randn(150, 12).double(), (torch.randn(130, 12) * 0.9 + 0.2).double()
    theirs = prc_features_to_metric(samples, real, prc_neighborhood=3, verbose=False)
    found = manifold_scores(real, samples)
    wanted = (theirs["precision"], theirs["recall"])  # float32 means
    assert (found.precision, found.recall) == pytest.approx(wanted, abs=1e-6)
