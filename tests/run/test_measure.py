"""What measuring a run takes of a large data set."""

import tracemalloc

import numpy as np
import pytest
import torch

import alitok.run.measure as measure_module
from alitok.data.sources.builtin import DigitSource
from alitok.recipes.presets import RECIPES
from alitok.run.encode import codes_of
from alitok.run.measure import _images, reconstruct
from alitok.tokenizer import Tokenizer


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


def test_codes_and_reconstructions_agree_with_the_model_and_leave_no_mode_behind():
    cpu = torch.device("cpu")
    tokenizer = Tokenizer(RECIPES["digits"].tokenizer).eval()
    originals = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    images = torch.from_numpy(originals).float() / 255
    assert np.array_equal(codes_of(tokenizer, originals, cpu), tokenizer.encode(images).numpy())
    assert not torch.is_inference_mode_enabled()
    for stage in ("stage1", "stage2"):
        rebuilt = []
        for block in reconstruct(tokenizer, [originals[:3], originals[3:]], stage, cpu):
            assert not torch.is_inference_mode_enabled()
            rebuilt.append(block)
        expected = tokenizer.reconstruct(images, stage).detach().numpy()
        assert np.allclose(np.concatenate(rebuilt), expected, atol=1e-6)
