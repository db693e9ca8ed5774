"""What measuring a run takes of a large data set."""

import tracemalloc

import numpy as np
import pytest

import alitok.run.measure as measure_module
from alitok.data.sources.builtin import DigitSource
from alitok.run.measure import _images


@pytest.fixture
def source():
    images = np.random.default_rng(0).integers(0, 256, (3000, 16, 16), dtype=np.uint8)
    return DigitSource("x", ("a", "b", "c"), np.arange(3000) % 3, 16, images)


def test_a_small_split_is_measured_whole_and_in_order(source):
    images, labels = _images(source, 0)
    assert (labels == source.labels).all()
    assert all((images[row] == source.read(row, None)).all() for row in (0, 1, 1500, 2999))


def test_a_large_split_is_represented_by_what_the_limit_holds_and_memory_stays_near_it(source, monkeypatch):
    limit = 2000 * 3 * 16 * 16
    monkeypatch.setattr(measure_module, "_MOST_BYTES", limit)
    tracemalloc.start()
    images, labels = _images(source, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.nbytes == limit
    assert peak < 1.2 * limit
    assert np.bincount(labels).min() > 500  # drawn from all, not the first
    assert (_images(source, 0)[0] == images).all()
    other, _ = _images(source, 1)
    assert (other != images).any()
