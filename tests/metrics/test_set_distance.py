"""Features block by block to the numbers of papers, against formulas on the whole set at once."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.features import Features
from alitok.metrics.moments import Gaussian
from alitok.metrics.set_distance import Target, compare, extract, features_of, gather, saved_images

CPU = torch.device("cpu")
ALONE = World(CPU)
CLASSES = 5


class Projections:
    """Some sums of pixels, and probabilities made of them: quick, and any array library can compute them."""

    name, weights, distance = "projections", "0", "a distance"

    def __init__(self, spatial=True):
        random = torch.Generator().manual_seed(0)
        self.pool = torch.randn(3 * 8 * 8, 6, generator=random)
        self.places = torch.randn(3 * 8 * 8, 4, generator=random) if spatial else None
        self.most = 0

    def __call__(self, images):
        self.most = max(self.most, len(images))
        pixels = images.flatten(1).float() / 255
        pool = (pixels @ self.pool).square() / 1000
        spatial = None if self.places is None else pixels @ self.places
        return Features(pool, spatial, pool[:, :CLASSES].softmax(1))


def some_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def blocks_of(images, size=32, labels=None, wanted=None):
    blocks = Blocks(len(images), size)
    for number in range(len(blocks)) if wanted is None else wanted:
        rows = blocks[number]
        known = np.zeros(len(rows), np.int64) if labels is None else labels[rows.start : rows.stop]
        yield ImageBlock(number, rows, known, images[rows.start : rows.stop])


def written(root, images, size=32, labels=None, extractor=None, shown=0):
    files = FeatureFiles(root, Blocks(len(images), size))
    extract(extractor or Projections(), blocks_of(images, size, labels), files, CPU, shown=shown)
    return files


def scipy_frechet(a, b):
    mean = a.mean(0) - b.mean(0)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return mean @ mean + np.trace(one + two - 2 * scipy.linalg.sqrtm(one @ two).real)


def test_the_numbers_are_those_of_the_whole_set_at_once(tmp_path):
    extractor, images, real = Projections(), some_images(300), some_images(280, seed=1) // 2
    labels = np.random.default_rng(3).integers(0, 3, 300)
    seen = gather(written(tmp_path / "a", images, labels=labels), ALONE, network_classes=np.array([4, 0, -1]))
    other = gather(written(tmp_path / "b", real), ALONE)
    target = Target(other.pool.total().gaussian(), other.spatial.gaussian(), other.features)
    found = compare(seen, target, device=CPU)

    ours, theirs = (extractor(torch.from_numpy(some)) for some in (images, real))
    assert extractor.most == 300
    assert torch.equal(seen.features, ours.pool)
    assert found.frechet.value == pytest.approx(scipy_frechet(ours.pool.double().numpy(), theirs.pool.double().numpy()))
    assert found.frechet.low < found.frechet.value < found.frechet.high
    spatial = scipy_frechet(ours.spatial.double().numpy(), theirs.spatial.double().numpy())
    assert found.spatial == pytest.approx(spatial)
    p = ours.probabilities.double()
    divergences = (p * (p.log() - p.mean(0).log())).sum(1)
    assert found.score.mean == pytest.approx(math.exp(divergences.mean()))
    right = ours.probabilities.argmax(1).numpy() == np.array([4, 0, -1])[labels]
    assert found.accuracy == pytest.approx(right.mean())
    assert 0 < found.accuracy < 1
    assert found.manifold is not None
    assert found.kernel is not None


@pytest.mark.parametrize("size", [7, 300])
def test_the_size_of_the_blocks_changes_nothing(tmp_path, size):
    images = some_images(100)
    target = Target(Gaussian(torch.zeros(6).double(), torch.eye(6).double()), None, None)
    first, second = (
        compare(gather(written(tmp_path / str(each), images, each), ALONE), target, device=CPU) for each in (32, size)
    )
    for one, two in ((first.frechet, second.frechet), (first.score, second.score), ([first.bias], [second.bias])):
        assert list(two) == pytest.approx(list(one), rel=1e-5)  # products of other shapes are rounded otherwise
    assert second.spatial is second.manifold is second.kernel is second.accuracy is None


def test_two_processes_find_what_one_finds(tmp_path, together):
    images, labels = some_images(90), np.arange(90) % 3
    files = written(tmp_path / "a", images, 16, labels)
    network_classes = np.array([0, 1, 2])

    def work(world):
        seen = gather(files, world, network_classes=network_classes)
        pool = seen.pool.total()
        moments = pool.mean.numpy(), pool.covariance().numpy(), seen.spatial.covariance().numpy()
        return *moments, list(seen.score.score()), seen.correct, seen.features is not None

    alone = work(ALONE)
    for rank, found in enumerate(together(work)):
        for one, two in zip(alone[:3], found[:3], strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-12)
        assert found[3] == pytest.approx(alone[3], rel=1e-9)
        assert found[4] == alone[4]
        assert found[5] == (rank == 0)


def test_only_what_is_missing_is_written_and_saved_images_are_the_first(tmp_path):
    images, labels = some_images(70), np.arange(70)
    files = FeatureFiles(tmp_path / "a", Blocks(70, 32))
    done = []
    extract(Projections(), blocks_of(images, labels=labels, wanted=[1]), files, CPU, shown=40, progress=done.append)
    assert done == [32]
    assert files.missing() == [0, 2]
    extract(Projections(), blocks_of(images, labels=labels, wanted=[0, 2]), files, CPU, shown=40)
    shown, known = saved_images(files)
    assert np.array_equal(shown, images[:40])
    assert np.array_equal(known, labels[:40])


def test_a_network_without_places_and_few_images(tmp_path):
    seen = gather(written(tmp_path / "a", some_images(5), extractor=Projections(spatial=False)), ALONE)
    assert seen.count == 5
    assert seen.spatial is None
    target = Target(seen.pool.total().gaussian(), None, seen.features)
    found = compare(seen, target, device=CPU)
    assert found.frechet.value == pytest.approx(0, abs=1e-6)
    assert math.isnan(found.frechet.low)
    assert found.bias is found.manifold is None


def test_features_that_are_not_finite_are_reported(tmp_path):
    class Broken(Projections):
        def __call__(self, images):
            found = super().__call__(images)
            return found._replace(pool=found.pool.log())

    images = some_images(64)
    images[40] = 0
    files = written(tmp_path / "a", images, extractor=Broken())
    with pytest.raises(AlitokError, match="features of 1 of 32 images are not finite"):
        gather(files, ALONE)


def test_the_network_sees_few_images_at_a_time():
    extractor = Projections()
    found = features_of(extractor, some_images(100), CPU)
    assert extractor.most == 32
    assert {name: value.shape for name, value in found.items()} == {
        "pool": (100, 6),
        "spatial": (100, 4),
        "probabilities": (100, CLASSES),
    }
