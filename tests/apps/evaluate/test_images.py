"""Which images a tokenizer is evaluated on, and how they are read."""

import numpy as np
import pytest
import torch

from alitok.apps.evaluate.images import choose
from alitok.core.blocks import Blocks
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.sources.opening import open_splits
from alitok.data.split import Splits

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return open_splits("digits", 8)


def test_a_split_is_read_in_its_order(digits):
    found = choose(digits, "val", None, 0)
    assert len(found) == len(digits.val)
    assert np.array_equal(found.labels, digits.val.labels)
    wanted = np.stack([digits.val.read(row, None) for row in (3, 200)])
    assert np.array_equal(found.read([3, 200]), wanted)
    assert found.key(200) == digits.val.key(200)


def test_all_are_those_for_training_and_then_the_others(digits):
    found, first = choose(digits, "all", None, 0), len(digits.train)
    assert len(found) == len(digits)
    assert np.array_equal(found.labels[first:], digits.val.labels)
    assert np.array_equal(found.read([first - 1, first])[0], digits.train.read(first - 1, None))
    assert np.array_equal(found.read([first - 1, first])[1], digits.val.read(0, None))
    assert found.name == "digits train and digits held-out"


def test_some_are_spread_by_the_seed_and_a_larger_number_holds_a_smaller_one(digits):
    few, more, other = (choose(digits, "all", num, seed) for num, seed in ((100, 3), (200, 3), (100, 4)))
    assert set(few.rows) < set(more.rows)
    assert list(few.rows) == sorted(few.rows)
    assert set(few.rows) != set(other.rows)
    assert len(np.unique(few.labels)) == 10
    assert few.rows[-1] > len(digits) * 0.9
    assert few.key(7) == choose(digits, "all", None, 0).key(few.rows[7])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_share_the_blocks_that_are_wanted(digits, size):
    found, blocks = choose(digits, "val", 50, 0), Blocks(50, 8)
    seen = {}
    for rank in range(size):
        for block in found.blocks(blocks, [6, 0, 3, 1], World(CPU, rank, size)):
            assert block.number not in seen
            seen[block.number] = block
    assert sorted(seen) == [0, 1, 3, 6]
    assert (seen[6].indices, seen[6].images.shape) == (range(48, 50), (2, 3, 8, 8))
    assert np.array_equal(seen[3].images, found.read(range(24, 32)))
    assert np.array_equal(seen[3].labels, found.labels[24:32])


def test_too_few_and_too_many_are_rejected(digits):
    with pytest.raises(AlitokError, match=r"--num 5,000 is more than the 3\d\d images \(val\) of digits"):
        choose(digits, "val", 5000, 0)
    for number in (1, 0, -3):
        with pytest.raises(AlitokError, match=rf"needs at least two images, not {number} "):
            choose(digits, "val", number, 0)
    keys = {digits.val.key(row) for row in range(1, len(digits.val))}
    one = Splits(digits.train, digits.val.without(keys), "digits", "digits")
    with pytest.raises(AlitokError, match="needs at least two images, not 1 "):
        choose(one, "val", None, 0)
