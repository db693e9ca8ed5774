"""Features on disk: what is missing is known, a block is whole or absent, damage is told."""

import numpy as np
import pytest

from alitok.core.blocks import Blocks
from alitok.core.errors import AlitokError
from alitok.metrics.feature_files import FeatureFiles


@pytest.fixture
def files(tmp_path):
    found = FeatureFiles(tmp_path / "features", Blocks(10, 4))
    for number in (0, 2):
        rows = np.array(found.blocks[number])
        found.write(number, {"pool": rows[:, None] * np.ones((1, 3), np.float32), "labels": rows})
    return found


def test_what_is_missing_is_what_was_not_written(files):
    assert files.missing() == [1]
    files.write(1, {"pool": np.zeros((4, 3), np.float32), "labels": np.arange(4, 8)})
    assert files.missing() == []
    assert np.array_equal(files.column("labels"), np.arange(10))
    assert set(files.read(1, "pool", "unknown")) == {"pool"}
    assert [len(block["pool"]) for block in files.each("pool", numbers=range(1, 3))] == [4, 2]


def test_a_block_that_is_missing_or_damaged_is_reported(files):
    with pytest.raises(AlitokError, match=r"block-00001\.npz is missing .* do they share a disk"):
        files.read(1, "pool")
    (files.root / "block-00002.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(AlitokError, match=r"block-00002\.npz is damaged; delete it"):
        files.read(2, "pool")
