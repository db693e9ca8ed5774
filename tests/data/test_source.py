import numpy as np
import pytest
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.source import open_splits


@pytest.mark.parametrize(("data", "library"), [("digits", "sklearn"), ("photos", "skimage")])
def test_builtin_sets_fulfil_the_interface(data, library):
    pytest.importorskip(library)
    splits = open_splits(data, 16)
    assert splits.train.classes == splits.heldout.classes
    for source in (splits.train, splits.heldout):
        assert source.name.startswith(data)
        assert source.size == 16
        assert source.labels.shape == (len(source),)
        assert source.labels.dtype == np.int64
        assert set(source.labels) == set(range(len(source.classes)))
        for rng in (None, np.random.default_rng(0)):
            picture = source.read(len(source) - 1, rng)
            assert (picture.shape, picture.dtype) == ((3, 16, 16), np.uint8)
            assert picture.flags.c_contiguous


def test_a_folder_is_opened_by_its_path(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    splits = open_splits(str(tmp_path), 16, seed=4)
    assert splits.train.classes == ("cats", "dogs")
    assert (len(splits.train), len(splits.heldout)) == (4, 2)


def test_the_hash_of_a_folder_follows_its_files(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    contents = {open_splits(str(tmp_path), 16, seed).contents for seed in (0, 1)}
    assert len(contents) == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "cats" / "9.png")
    contents.add(open_splits(str(tmp_path), 16).contents)
    (tmp_path / "cats" / "9.png").rename(tmp_path / "dogs" / "9.png")
    contents.add(open_splits(str(tmp_path), 16).contents)
    assert len(contents) == 3
    assert open_splits(str(tmp_path), 16).name == str(tmp_path.resolve())


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(AlitokError, match=r"'digit': the path does not exist.*digits and photos"):
        open_splits("digit", 16)
