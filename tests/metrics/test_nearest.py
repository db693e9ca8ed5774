import numpy as np
import pytest

import alitok.metrics.nearest as nearest
from alitok.core.errors import AlitokError
from alitok.metrics.nearest import nearest_distance


def some_images(count, seed, side=5):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def brute_force(queries, references):
    distances, indices = [], []
    for query in queries:
        each = [np.sqrt(np.mean((query / 255 - reference / 255) ** 2)) for reference in references]
        indices.append(int(np.argmin(each)))
        distances.append(min(each))
    return np.array(distances), np.array(indices)


@pytest.mark.parametrize("block", [1, 3, 7, 1024])
def test_equals_brute_force_for_any_block(block):
    queries, references = some_images(11, 0), some_images(17, 1)
    distances, indices = nearest_distance(queries, references, block)
    expected, expected_indices = brute_force(queries, references)
    assert np.allclose(distances, expected, rtol=1e-12)
    assert np.array_equal(indices, expected_indices)


def test_large_images_are_compared_in_smaller_blocks(monkeypatch):
    queries, references = some_images(6, 0), some_images(9, 1)
    expected = nearest_distance(queries, references)
    monkeypatch.setattr(nearest, "_MAX_VALUES", 2 * 75)
    seen = []
    flat = nearest._flat
    monkeypatch.setattr(nearest, "_flat", lambda some: seen.append(len(some)) or flat(some))
    distances, indices = nearest_distance(queries, references)
    assert max(seen) == 2
    assert np.array_equal(distances, expected[0])
    assert np.array_equal(indices, expected[1])


def test_a_copy_has_distance_zero_and_one_gray_level_does_not():
    references = np.concatenate([some_images(30, 2, 32), np.full((1, 3, 32, 32), 255, np.uint8)])
    order = np.random.default_rng(0).permutation(len(references))
    distances, indices = nearest_distance(references[order], references)
    assert (distances == 0).all()
    assert np.array_equal(indices, order)
    almost = references[-1:].copy()
    almost[0, 0, 0, 0] -= 1
    assert nearest_distance(almost, references)[0][0] == pytest.approx(1 / 255 / np.sqrt(3 * 32 * 32))


def test_black_to_white_is_one_and_the_first_of_equals_wins():
    black, white = np.zeros((1, 3, 4, 4), np.uint8), np.full((3, 3, 4, 4), 255, np.uint8)
    for block in (1, 2, 8):
        distances, indices = nearest_distance(black, white, block)
        assert distances.tolist() == [1.0]
        assert indices.tolist() == [0]


def test_no_queries_give_no_distances():
    distances, indices = nearest_distance(some_images(0, 0), some_images(2, 0))
    assert distances.shape == indices.shape == (0,)


def test_missing_or_misshapen_references_are_rejected():
    with pytest.raises(AlitokError, match="at least one"):
        nearest_distance(some_images(1, 0), some_images(0, 0))
    with pytest.raises(AlitokError, match="one size"):
        nearest_distance(some_images(1, 0, 5), some_images(1, 0, 6))
