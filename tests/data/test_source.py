import numpy as np
import pytest
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.source import crops_per_picture, open_splits, view_batches


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
        for recipe in ("centre", "flip", "ten"):
            views = source.views(len(source) - 1, recipe)
            assert (views.shape, views.dtype) == ((crops_per_picture(source, recipe), 3, 16, 16), np.uint8)
            assert views.flags.c_contiguous
        assert (source.views(1, "centre")[0] == source.read(1, None)).all()


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


@pytest.mark.parametrize(
    ("data", "library", "expected"), [("digits", "sklearn", [1, 1, 1]), ("photos", "skimage", [1, 2, 10])]
)
def test_the_number_of_views_of_the_builtin_sets(data, library, expected):
    pytest.importorskip(library)
    train = open_splits(data, 16).train
    assert [crops_per_picture(train, recipe) for recipe in ("centre", "flip", "ten")] == expected


class Views:
    """Two views of each picture, which say which they are."""

    labels = np.array([2, 0, 1], np.int64)

    def views(self, index, recipe):
        assert recipe == "flip"
        return np.stack([np.full((3, 2, 2), 10 * index + view, np.uint8) for view in range(2)])


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 100])
def test_all_views_come_picture_by_picture_with_the_label_of_their_picture(batch_size):
    batches = list(view_batches(Views(), "flip", batch_size))
    assert all(len(views) == batch_size for views, _ in batches[:-1])
    views = np.concatenate([views for views, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    assert (views.dtype, labels.dtype) == (np.uint8, np.int64)
    assert (views[:, 0, 0, 0].tolist(), views.shape) == ([0, 1, 10, 11, 20, 21], (6, 3, 2, 2))
    assert labels.tolist() == [2, 2, 0, 0, 1, 1]
