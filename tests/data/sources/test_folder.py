import os
import pickle
import warnings

import numpy as np
import pytest
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.crops import centre_crop, five_crops
from alitok.data.sources.decoded import DecodedSource
from alitok.data.sources.folder import open_folder
from alitok.data.sources.opening import open_splits


def save_image(path, width=24, height=20, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, path.name)))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    image.save(path, **options)
    return image


def two_classes(root, each=2):
    for name in ("ants", "bees"):
        for number in range(each):
            save_image(root / name / f"{number}.png")
    return root


def keys(source):
    return [source.key(index) for index in range(len(source))]


def opened(root, size=16, seed=0):
    splits = open_splits(str(root), size, seed)
    return splits.train, splits.val


def single(path, flip=True):
    """The images of a flat folder, in order, as one source."""
    images = open_folder(path)
    return DecodedSource("x", images, np.arange(len(images)), 16, flip)


def test_nested_folders_and_all_endings_are_found_hidden_ones_are_not(tmp_path):
    wanted = ["a/1.JPG", "a/2.jpeg", "a/deep/er/3.png", "a/4.webp", "b/5.bmp", "b/6.GIF", "b/7.tif", "b/x/8.TIFF"]
    others = ["a/.hidden.png", "a/.thumbs/9.png", ".cache/10.png", "11.png"]
    for name in wanted + others:
        save_image(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "png").write_text("no image")
    train, val = opened(tmp_path)
    assert sorted(keys(train) + keys(val)) == sorted(wanted)
    assert train.classes == val.classes == ("a", "b")
    for source in (train, val):
        for key, label in zip(keys(source), source.labels, strict=True):
            assert key.split("/")[0] == source.classes[label]
    assert open_folder(tmp_path).notes == (f"1 image beside the class folders of {tmp_path} is not used.",)


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    two_classes(tmp_path, 12)
    save_image(tmp_path / "ants" / "B" / "z.png")
    save_image(tmp_path / "Zebras" / "1.png")
    save_image(tmp_path / "Zebras" / "0.png")
    expected = [keys(source) for source in opened(tmp_path)]
    scandir = os.scandir
    seen = []

    class Backwards(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def backwards(path):
        seen.append(path)
        with scandir(path) as entries:
            return Backwards(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr("os.scandir", backwards)
    assert [keys(source) for source in opened(tmp_path)] == expected
    assert opened(tmp_path)[0].classes == ("Zebras", "ants", "bees")
    assert seen


def test_keys_come_sorted_by_code_point_class_by_class(tmp_path):
    for name in ("b/2.png", "b/10.png", "b/A/1.png", "a/z.png", "a/É.png", "a/e.png"):
        save_image(tmp_path / name)
    images = open_folder(tmp_path)
    assert keys(images) == ["a/e.png", "a/z.png", "a/É.png", "b/10.png", "b/2.png", "b/A/1.png"]
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_folders_that_are_all_numbers_are_ordered_as_numbers(tmp_path):
    for name in ("10", "2", "1"):
        save_image(tmp_path / name / "1.png")
    images = open_folder(tmp_path)
    assert images.classes == ("1", "2", "10")
    assert [images.classes[label] for label in images.labels] == [key.split("/")[0] for key in keys(images)]
    save_image(tmp_path / "3b" / "1.png")
    assert open_folder(tmp_path).classes == ("1", "10", "2", "3b")


def test_names_that_are_no_text_are_names_all_the_same(tmp_path):
    two_classes(tmp_path)
    odd = os.fsencode(tmp_path / "bees") + b"/\xff\xfe.png"
    try:
        os.rename(tmp_path / "bees" / "1.png", odd)  # noqa: PTH104 (bytes)
    except OSError:
        pytest.skip("this file system has names of text only")
    train, val = opened(tmp_path)
    assert train.verify() == val.verify() == []
    assert "bees/\\udcff\\udcfe.png" in keys(train) + keys(val)


def test_the_split_is_seeded_per_class_and_loses_nothing(tmp_path):
    two_classes(tmp_path, 30)
    train, val = opened(tmp_path, seed=7)
    assert np.bincount(val.labels).tolist() == [3, 3]
    assert not set(keys(train)) & set(keys(val))
    assert len(set(keys(train)) | set(keys(val))) == 60
    assert keys(opened(tmp_path, seed=7)[1]) == keys(val)
    assert keys(opened(tmp_path, seed=8)[1]) != keys(val)


@pytest.mark.parametrize("part", ["val", "valid", "validation", "test"])
def test_a_given_split_is_kept(tmp_path, part):
    two_classes(tmp_path / "train", 3)
    two_classes(tmp_path / part, 2)
    for seed in (0, 1):
        train, val = opened(tmp_path, seed=seed)
        assert keys(train) == [f"train/{name}/{number}.png" for name in ("ants", "bees") for number in range(3)]
        assert keys(val) == [f"{part}/{name}/{number}.png" for name in ("ants", "bees") for number in range(2)]
        assert train.classes == ("ants", "bees")
        assert val.labels.tolist() == [0, 0, 1, 1]
        assert val.verify() == []


def test_of_several_val_folders_one_is_used_and_the_others_are_reported(tmp_path):
    for part in ("train", "test", "val", "extra"):
        two_classes(tmp_path / part, 2)
    images = open_folder(tmp_path)
    assert {key.split("/")[0] for key in keys(images)} == {"train", "val"}
    (note,) = images.notes
    assert "test" in note
    assert "extra" in note


def test_a_folder_of_unlabeled_test_images_is_not_a_val_split(tmp_path):
    two_classes(tmp_path / "train", 3)
    save_image(tmp_path / "test" / "1.png")
    images = open_folder(tmp_path)
    assert images.val is None
    assert images.classes == ("ants", "bees")
    assert "test" in images.notes[0]


def test_train_alone_holds_classes_and_beside_others_is_one(tmp_path):
    two_classes(tmp_path / "alone" / "train", 3)
    assert open_folder(tmp_path / "alone").classes == ("ants", "bees")
    assert open_folder(tmp_path / "alone").val is None
    for name in ("bus", "train", "tram"):
        save_image(tmp_path / "beside" / name / "1.png")
    assert open_folder(tmp_path / "beside").classes == ("bus", "train", "tram")


def test_a_class_that_is_val_only(tmp_path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "val")
    save_image(tmp_path / "val" / "wasps" / "1.png")
    assert_refused(tmp_path, "'wasps'", "no training images")


def test_a_flat_folder_is_one_class_named_after_it(tmp_path):
    for number in range(12):
        save_image(tmp_path / "beetles" / f"{number}.png")
    train, val = opened(tmp_path / "beetles")
    assert train.classes == ("beetles",)
    assert (len(train), len(val)) == (11, 1)


def test_flat_parts_are_one_class_too(tmp_path):
    save_image(tmp_path / "train" / "1.png")
    save_image(tmp_path / "val" / "2.png")
    train, val = opened(tmp_path)
    assert train.classes == (tmp_path.name,)
    assert (keys(train), keys(val)) == (["train/1.png"], ["val/2.png"])


def test_a_class_of_one_image_keeps_it_for_training(tmp_path):
    two_classes(tmp_path, 1)
    assert_refused(tmp_path, "only one image per class")
    two_classes(tmp_path)
    save_image(tmp_path / "wasps" / "1.png")
    train, val = opened(tmp_path)
    assert np.bincount(train.labels, minlength=3).tolist() == [1, 1, 1]
    assert np.bincount(val.labels, minlength=3).tolist() == [1, 1, 0]


def test_images_can_be_sent_to_workers(tmp_path):
    train, _ = opened(two_classes(tmp_path, 5))
    again = pickle.loads(pickle.dumps(train))
    assert keys(again) == keys(train)
    assert (again.read(3, None) == train.read(3, None)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_images_of_any_mode_and_size_leave_as_squares(tmp_path, mode):
    two_classes(tmp_path)
    if mode == "I;16":
        Image.fromarray(np.full((40, 30), 60_000, np.uint16)).save(tmp_path / "ants" / "odd.tif")
    else:
        save_image(tmp_path / "ants" / "odd.tif", 30, 40, mode)
    for source in opened(tmp_path):
        assert source.verify() == []
        for index in range(len(source)):
            for rng in (None, np.random.default_rng(index)):
                read = source.read(index, rng)
                assert (read.shape, read.dtype) == ((3, 16, 16), np.uint8)


def test_the_fixed_view_is_the_centre_crop(tmp_path):
    image = save_image(tmp_path / "x.png", 50, 37)
    source = single(tmp_path)
    assert (source.read(0, None) == np.asarray(centre_crop(image, 16)).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("flip", [True, False])
def test_stored_views_are_the_centre_or_five_crops_and_then_their_mirror_images(tmp_path, flip):
    image = save_image(tmp_path / "x.png", 50, 37)
    source = single(tmp_path, flip)
    assert (source.views(0, "centre") == source.read(0, None)).all()
    assert source.views(0, "centre").shape == (1, 3, 16, 16)
    for recipe, crops in (("flip", [centre_crop(image, 16)]), ("ten", five_crops(image, 16))):
        plain = np.stack([np.asarray(crop).transpose(2, 0, 1) for crop in crops])
        views = source.views(0, recipe)
        assert views.dtype == np.uint8
        assert (views[: len(crops)] == plain).all()
        assert len(views) == len(crops) * (2 if flip else 1)
        assert not flip or (views[len(crops) :] == np.flip(plain, axis=3)).all()


def test_training_views_differ_and_half_of_them_are_mirrored(tmp_path):
    ramp = np.tile(np.arange(60, dtype=np.uint8)[None, :, None] * 4, (40, 1, 3))
    Image.fromarray(ramp).save(tmp_path / "x.png")
    source = single(tmp_path)
    rng = np.random.default_rng(0)
    views = np.stack([source.read(0, rng) for _ in range(200)]).astype(int)
    assert len({view.tobytes() for view in views}) > 10
    assert 70 < (views[:, 0, 0, 0] > views[:, 0, 0, -1]).sum() < 130
    again = np.random.default_rng(0)
    assert (views[:3] == np.stack([source.read(0, again) for _ in range(3)])).all()
    source.flip = False
    assert all((view[0, 0, 0] < view[0, 0, -1]) for view in (source.read(0, rng) for _ in range(30)))


def test_verify_tells_its_progress(tmp_path):
    train, _ = opened(two_classes(tmp_path, 3))
    told = []
    assert train.verify(told.append) == []
    assert told == [1, 2, 3, 4]


def test_the_shares_of_several_processes_make_the_whole(tmp_path):
    two_classes(tmp_path, 20)
    for number in range(0, 20, 3):
        (tmp_path / "ants" / f"{number}.png").write_bytes(b"broken")
    train, _ = opened(tmp_path)
    whole = train.verify()
    for processes in (1, 2, 3, 50):
        told = []
        assert [b for rank in range(processes) for b in train.verify(told.append, (rank, processes))] == whole
        assert max(told) <= len(train)
    assert [broken.key for broken in whole] == [key for key in keys(train) if (tmp_path / key).stat().st_size == 6]


def test_without_leaves_out_what_is_named_and_moves_nothing_else(tmp_path):
    train, _ = opened(two_classes(tmp_path, 10))
    unwanted = {train.key(2), train.key(9), "no/such.png"}
    rest = train.without(unwanted)
    expected = [key for key in keys(train) if key not in unwanted]
    assert keys(rest) == expected
    assert len(rest) == len(train) - 2
    assert rest.classes == train.classes
    places = [keys(train).index(key) for key in expected]
    assert (rest.labels == train.labels[places]).all()
    assert all((rest.read(i, None) == train.read(place, None)).all() for i, place in enumerate(places))
    assert keys(rest.without({rest.key(0)})) == expected[1:]
    assert keys(train.without(keys(train))) == []


def assert_refused(root, *parts, size=16):
    """Opening says one sentence that holds all `parts`, and no warning is shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AlitokError) as caught:
            open_splits(str(root), size, 0)
    for part in parts:
        assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


def assert_broken(root, key, *parts, size=16):
    """Opening says nothing; `verify` names exactly this image, in silence, and so does reading it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sources = opened(root, size)
        ((found, reason),) = [broken for source in sources for broken in source.verify()]
    assert found == key
    for part in parts:
        assert part in reason
    assert "\n" not in reason
    return next(source for source in sources if key in keys(source))


def test_a_path_that_is_missing_or_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(tmp_path / "none", tmp_path / "none", "does not exist")
    assert_refused(tmp_path / "file", tmp_path / "file", "not a source of images")


def test_folders_without_images(tmp_path):
    assert_refused(tmp_path, tmp_path, "no images")
    for name in ("ants", "bees", "wasps"):
        (tmp_path / name).mkdir()
    assert_refused(tmp_path, tmp_path, "no images")
    two_classes(tmp_path)
    assert_refused(tmp_path, tmp_path / "wasps", "no images")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    two_classes(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("bees"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert_refused(tmp_path, tmp_path / "bees", "cannot be listed: Permission denied")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_files_that_are_not_images(tmp_path, content):
    two_classes(tmp_path)
    (tmp_path / "bees" / "bad.png").write_bytes(content)
    assert_broken(tmp_path, "bees/bad.png", "" if content else "empty")


def test_a_dangling_link(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "bees" / "bad.png").symlink_to(tmp_path / "gone.png")
    assert_broken(tmp_path, "bees/bad.png", "does not exist")


@pytest.mark.parametrize(
    ("width", "height", "size", "least"), [(1, 1, 16, 8), (7, 100, 16, 8), (100, 15, 64, 16), (63, 63, 256, 64)]
)
def test_too_small_a_image(tmp_path, width, height, size, least):
    for name in ("ants/1", "ants/2", "bees/1"):
        save_image(tmp_path / f"{name}.png", least, least)
    save_image(tmp_path / "bees" / "2.png", width, height)
    assert_broken(tmp_path, "bees/2.png", f"is {width} x {height} px", f"at least {least}", size=size)


def test_the_size_of_a_rotated_image_is_checked_upright(tmp_path):
    two_classes(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "bees" / "turned.png", 7, 30, exif=exif)
    assert_broken(tmp_path, "bees/turned.png", "is 30 x 7 px")


def test_the_smallest_allowed_image_is_enlarged(tmp_path):
    for name in ("ants/1", "ants/2", "bees/1", "bees/2"):
        save_image(tmp_path / f"{name}.png", 16, 16)
    train, _ = opened(tmp_path, 64)
    assert train.verify() == []
    assert train.read(0, None).shape == (3, 64, 64)


def test_a_decompression_bomb(tmp_path, monkeypatch):
    two_classes(tmp_path)
    save_image(tmp_path / "bees" / "big.png", 60, 60)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert_broken(tmp_path, "bees/big.png", "more than 2,000 pixels")


def test_a_image_that_pillow_only_warns_of_is_used_in_silence(tmp_path, monkeypatch):
    two_classes(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 20 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in opened(tmp_path):
            assert source.verify() == []
            assert source.read(0, None).shape == (3, 16, 16)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_a_truncated_image_is_named_by_read_and_verify(tmp_path, ending):
    two_classes(tmp_path)
    bad = tmp_path / "bees" / f"bad.{ending}"
    save_image(bad, 100, 100)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) * 6 // 10])
    source = assert_broken(tmp_path, f"bees/bad.{ending}")
    index = keys(source).index(f"bees/bad.{ending}")
    for read in (lambda: source.read(index, None), lambda: source.views(index, "ten")):
        with pytest.raises(AlitokError, match=r"bees/bad\.\w+ (cannot be decoded|is not an image)") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as from a worker
    assert source.read(1 - min(index, 1), None).shape == (3, 16, 16)
