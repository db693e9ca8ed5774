import sys

import numpy as np
import pytest
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.sources.builtin import PHOTOS, TRAINING_CROPS, VAL_CROPS, open_digits, open_photos, photo_sources

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def stack(source, rng=None):
    return np.stack([source.read(index, rng) for index in range(len(source))])


def test_digits_at_their_own_size_are_the_scans_each_in_one_split():
    scans = sklearn_datasets.load_digits()
    expected = sorted(
        (t, np.floor(s * 255 / 16 + 0.5).astype(int).tobytes()) for s, t in zip(scans.images, scans.target, strict=True)
    )
    found = []
    for source in open_digits(8, seed=3):
        images = stack(source)
        assert (images == images[:, :1]).all()
        found += [(t, p[0].astype(int).tobytes()) for p, t in zip(images, source.labels, strict=True)]
    assert sorted(found) == expected


def test_a_fifth_of_each_digit_is_val_by_the_seed():
    train, val = open_digits(8, seed=0)
    for digit in range(10):
        inside, outside = (train.labels == digit).sum(), (val.labels == digit).sum()
        assert outside == round((inside + outside) / 5)
    assert (open_digits(8, seed=0)[1].images == val.images).all()
    assert (open_digits(8, seed=1)[1].images != val.images).any()


@pytest.mark.parametrize("size", [16, 32])
def test_enlarged_digits_keep_the_ink_and_use_the_whole_range(size):
    small, large = open_digits(8, 0)[1], open_digits(size, 0)[1]
    images = stack(large)
    assert images.shape == (len(small), 3, size, size)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    step = size // 8
    shrunk = images[:, 0].reshape(-1, 8, step, 8, step).mean(axis=(2, 4))
    assert np.abs(shrunk - small.images).mean() < 12


def test_digits_are_never_augmented():
    train, _ = open_digits(16, 0)
    assert train.flip is False
    assert (train.read(5, np.random.default_rng(0)) == train.read(5, None)).all()
    assert train.classes == tuple("0123456789")


def coordinates(width, height):
    """Red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(100, 64), (64, 100), (64, 64), (131, 64)])
def test_no_val_crop_shares_a_pixel_with_training(width, height):
    # at 16 pixels and a short side of 64 nothing is resampled, so a crop tells where it was cut
    train, val = photo_sources({"place": coordinates(width, height)}, 16)
    rng = np.random.default_rng(0)
    inside, outside = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for source, seen in ((train, inside), (val, outside)):
        for crop in np.concatenate([stack(source), stack(source, rng)]):
            seen[crop[1], crop[0]] = True
    assert not (inside & outside).any()
    assert inside.sum() > 0.9 * 0.75 * width * height
    assert outside.sum() > 0.9 * 0.25 * width * height
    axis = 0 if width >= height else 1
    assert np.flatnonzero(inside.any(axis=axis)).max() < 0.75 * max(width, height)


def test_resampling_carries_nothing_over_the_border():
    photo = np.zeros((300, 400, 3), np.uint8)
    photo[:, :300, 0] = photo[:, 300:, 2] = 255
    train, val = photo_sources({"flag": Image.fromarray(photo)}, 16)
    assert (stack(train) == np.array([255, 0, 0])[:, None, None]).all()
    assert (stack(val) == np.array([0, 0, 255])[:, None, None]).all()


def test_both_regions_are_shrunk_alike():
    stripes = np.zeros((256, 512, 3), np.uint8)
    stripes[:, np.arange(512) % 64 < 32] = 255  # period 64 at a short side of 256, 16 at one of 64
    for source in photo_sources({"stripes": Image.fromarray(stripes)}, 16):
        region = source.regions[0][0].astype(float)
        assert np.abs(region[:, :-16] - region[:, 16:]).max() <= 40
        assert np.abs(region[:, :-8] - region[:, 8:]).mean() > 200


def test_training_crops_and_flips():
    train, _ = photo_sources({"a": coordinates(100, 64), "b": coordinates(64, 100)}, 16)
    assert len(train) == 2 * TRAINING_CROPS
    assert train.labels.tolist() == [0] * TRAINING_CROPS + [1] * TRAINING_CROPS
    fixed = stack(train)
    assert (fixed == stack(train)).all()
    assert (fixed[:, 0, 0, 1] > fixed[:, 0, 0, 0]).all()  # x grows to the right: not mirrored
    assert len({crop.tobytes() for crop in fixed[:TRAINING_CROPS]}) > 0.9 * TRAINING_CROPS
    drawn = stack(train, np.random.default_rng(0))
    mirrored = (drawn[:, 0, 0, 1] < drawn[:, 0, 0, 0]).mean()
    assert 0.35 < mirrored < 0.65


def test_five_places_of_a_photograph_are_drawn_for_each_image_and_mirrored():
    train, _ = photo_sources({"a": coordinates(100, 64), "b": coordinates(64, 100)}, 16)
    places = set()
    for index in range(0, len(train), 8):
        views = train.views(index, "ten").astype(int)
        assert (views == train.views(index, "ten")).all()
        assert (views[0] == train.read(index, None)).all()
        assert (views[5:] == views[:5, :, :, ::-1]).all()
        assert (views[:5, 0, 0, 1] > views[:5, 0, 0, 0]).all()  # x grows to the right: not mirrored
        assert (train.views(index, "flip") == views[[0, 5]]).all()
        places |= {view.tobytes() for view in views[:5]}
    assert len(places) > 0.9 * 5 * len(train) / 8


def test_sources_without_random_crops_have_one_stored_view():
    for source in (photo_sources({"a": coordinates(100, 64)}, 16)[1], open_digits(8, 0)[0]):
        for recipe in ("centre", "flip", "ten"):
            views = source.views(3, recipe)
            assert views.shape == (1, 3, source.size, source.size)
            assert (views[0] == source.read(3, None)).all()


def test_val_crops_are_fixed_distinct_and_reach_both_ends():
    _, val = photo_sources({"a": coordinates(100, 64)}, 16)
    assert val.labels.tolist() == [0] * VAL_CROPS
    images = stack(val)
    assert (images == stack(val, np.random.default_rng(0))).all()
    assert len({image.tobytes() for image in images}) == VAL_CROPS
    assert (images[:, 1].min(), images[:, 1].max()) == (0, 63)
    assert (images[:, 0].min(), images[:, 0].max()) == (75, 99)


def test_the_photographs_are_there_and_differ():
    pytest.importorskip("skimage")
    train, val = open_photos(16, seed=0)
    assert train.classes == val.classes == tuple(name.split(".")[0] for name in PHOTOS)
    firsts = [train.read(label * TRAINING_CROPS, None) for label in range(len(PHOTOS))]
    assert all(first.shape == (3, 16, 16) and first.std() > 1 for first in firsts)
    assert len({first.tobytes() for first in firsts}) == len(PHOTOS)


@pytest.mark.parametrize("size", [7, 17])
def test_a_size_that_does_not_fit_the_photographs(size):
    with pytest.raises(AlitokError, match=f"image size of {size} .* from 8 to 16"):
        photo_sources({"a": coordinates(100, 64)}, size)


def test_digits_cannot_be_shrunk():
    with pytest.raises(AlitokError, match="7 is too small"):
        open_digits(7, 0)


@pytest.mark.parametrize(("module", "opener"), [("sklearn.datasets", open_digits), ("skimage", open_photos)])
def test_a_missing_library_names_what_to_install(module, opener, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(AlitokError, match=r"pip install 'alitok\[demo\]'"):
        opener(16, 0)
