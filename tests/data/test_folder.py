import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.crops import centre_crop, five_crops
from alitok.data.folder import FolderSource, open_folder


def picture(path, width=24, height=20, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, path.name)))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    image.save(path, **options)
    return image


def two_classes(root, each=2):
    for name in ("ants", "bees"):
        for number in range(each):
            picture(root / name / f"{number}.png")
    return root


def all_files(root, size=16, seed=0):
    train, heldout = open_folder(root, size, seed)
    return sorted(train.files + heldout.files)


def test_nested_folders_and_all_endings_are_found_hidden_ones_are_not(tmp_path):
    wanted = ["a/1.JPG", "a/2.jpeg", "a/deep/er/3.png", "a/4.webp", "b/5.bmp", "b/6.GIF", "b/7.tif", "b/x/8.TIFF"]
    others = ["a/.hidden.png", "a/.thumbs/9.png", ".cache/10.png", "11.png"]
    for name in wanted + others:
        picture(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    train, heldout = open_folder(tmp_path, 16, 0)
    assert sorted(file.relative_to(tmp_path).as_posix() for file in train.files + heldout.files) == sorted(wanted)
    assert train.classes == heldout.classes == ("a", "b")
    for source in (train, heldout):
        for file, label in zip(source.files, source.labels, strict=True):
            assert file.relative_to(tmp_path).parts[0] == source.classes[label]


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    two_classes(tmp_path, 12)
    picture(tmp_path / "ants" / "B" / "z.png")
    picture(tmp_path / "Zebras" / "1.png")
    picture(tmp_path / "Zebras" / "0.png")
    expected = [source.files for source in open_folder(tmp_path, 16, 0)]
    walk, iterdir = os.walk, Path.iterdir

    def backwards(*args, **options):
        for parent, folders, names in walk(*args, **options):
            folders.reverse()
            yield parent, folders, names[::-1]

    monkeypatch.setattr("os.walk", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(iterdir(self))))
    assert [source.files for source in open_folder(tmp_path, 16, 0)] == expected
    assert open_folder(tmp_path, 16, 0)[0].classes == ("Zebras", "ants", "bees")


def test_the_split_is_seeded_per_class_and_loses_nothing(tmp_path):
    two_classes(tmp_path, 30)
    train, heldout = open_folder(tmp_path, 16, 7)
    assert np.bincount(heldout.labels).tolist() == [3, 3]
    assert not set(train.files) & set(heldout.files)
    assert len(set(train.files) | set(heldout.files)) == 60
    assert open_folder(tmp_path, 16, 7)[1].files == heldout.files
    assert open_folder(tmp_path, 16, 8)[1].files != heldout.files


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_pictures_of_any_mode_and_size_leave_as_squares(tmp_path, mode):
    two_classes(tmp_path)
    if mode == "I;16":
        Image.fromarray(np.full((40, 30), 60_000, np.uint16)).save(tmp_path / "ants" / "odd.tif")
    else:
        picture(tmp_path / "ants" / "odd.tif", 30, 40, mode)
    for source in open_folder(tmp_path, 16, 0):
        source.verify()
        for index in range(len(source)):
            for rng in (None, np.random.default_rng(index)):
                read = source.read(index, rng)
                assert (read.shape, read.dtype) == ((3, 16, 16), np.uint8)


def test_the_fixed_view_is_the_centre_crop(tmp_path):
    image = picture(tmp_path / "x.png", 50, 37)
    source = FolderSource("x", ("x",), np.zeros(1, np.int64), 16, [tmp_path / "x.png"])
    assert (source.read(0, None) == np.asarray(centre_crop(image, 16)).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("flip", [True, False])
def test_stored_views_are_the_centre_or_five_crops_and_then_their_mirror_images(tmp_path, flip):
    image = picture(tmp_path / "x.png", 50, 37)
    source = FolderSource("x", ("x",), np.zeros(1, np.int64), 16, [tmp_path / "x.png"], flip)
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
    source = FolderSource("x", ("x",), np.zeros(1, np.int64), 16, [tmp_path / "x.png"])
    rng = np.random.default_rng(0)
    views = np.stack([source.read(0, rng) for _ in range(200)]).astype(int)
    assert len({view.tobytes() for view in views}) > 10
    assert 70 < (views[:, 0, 0, 0] > views[:, 0, 0, -1]).sum() < 130
    again = np.random.default_rng(0)
    assert (views[:3] == np.stack([source.read(0, again) for _ in range(3)])).all()
    source.flip = False
    assert all((view[0, 0, 0] < view[0, 0, -1]) for view in (source.read(0, rng) for _ in range(30)))


def test_verify_tells_its_progress(tmp_path):
    train, _ = open_folder(two_classes(tmp_path, 3), 16, 0)
    told = []
    train.verify(told.append)
    assert told == [1, 2, 3, 4]


def assert_refused(root, *parts, size=16):
    """Opening says one sentence that holds all `parts`, and no warning is shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AlitokError) as caught:
            open_folder(root, size, 0)
    for part in parts:
        assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_path(tmp_path):
    assert_refused(tmp_path / "none", tmp_path / "none", "does not exist")


def test_path_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(tmp_path / "file", tmp_path / "file", "is a file")


def test_empty_folder(tmp_path):
    assert_refused(tmp_path, tmp_path, "no class folders")


def test_pictures_outside_class_folders(tmp_path):
    picture(tmp_path / "1.png")
    assert_refused(tmp_path, tmp_path, "no class folders")


def test_class_folders_without_any_picture(tmp_path):
    (tmp_path / "ants").mkdir()
    (tmp_path / "bees").mkdir()
    assert_refused(tmp_path, tmp_path, "no pictures")


def test_one_class_only(tmp_path):
    picture(tmp_path / "ants" / "1.png")
    picture(tmp_path / "ants" / "2.png")
    assert_refused(tmp_path, tmp_path, "only one class, ants")


def test_a_class_without_pictures(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "wasps").mkdir()
    assert_refused(tmp_path, tmp_path / "wasps", "no pictures")


def test_a_class_of_one_picture(tmp_path):
    two_classes(tmp_path)
    picture(tmp_path / "wasps" / "1.png")
    assert_refused(tmp_path, tmp_path / "wasps", "one picture only")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture(tmp_path, content):
    two_classes(tmp_path)
    (tmp_path / "bees" / "bad.png").write_bytes(content)
    assert_refused(tmp_path, tmp_path / "bees" / "bad.png")


def test_a_dangling_link(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "bees" / "bad.png").symlink_to(tmp_path / "gone.png")
    assert_refused(tmp_path, tmp_path / "bees" / "bad.png", "cannot be decoded")


@pytest.mark.parametrize(
    ("width", "height", "size", "least"), [(1, 1, 16, 8), (7, 100, 16, 8), (100, 15, 64, 16), (63, 63, 256, 64)]
)
def test_too_small_a_picture(tmp_path, width, height, size, least):
    for name in ("ants/1", "ants/2", "bees/1"):
        picture(tmp_path / f"{name}.png", least, least)
    picture(tmp_path / "bees" / "2.png", width, height)
    assert_refused(
        tmp_path, tmp_path / "bees" / "2.png", f"is {width} x {height} pixels", f"at least {least}", size=size
    )


def test_the_smallest_allowed_picture_is_enlarged(tmp_path):
    for name in ("ants/1", "ants/2", "bees/1", "bees/2"):
        picture(tmp_path / f"{name}.png", 16, 16)
    train, _ = open_folder(tmp_path, 64, 0)
    assert train.read(0, None).shape == (3, 64, 64)


def test_a_decompression_bomb(tmp_path, monkeypatch):
    two_classes(tmp_path)
    picture(tmp_path / "bees" / "big.png", 60, 60)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert_refused(tmp_path, tmp_path / "bees" / "big.png", "more than 2,000 pixels")


def test_a_picture_that_pillow_only_warns_of_is_used_in_silence(tmp_path, monkeypatch):
    two_classes(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 20 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in open_folder(tmp_path, 16, 0):
            source.verify()
            assert source.read(0, None).shape == (3, 16, 16)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_a_truncated_picture_is_named_by_read_and_verify(tmp_path, ending):
    for name in ("ants/1", "ants/2", "bees/1"):
        picture(tmp_path / f"{name}.png")
    bad = tmp_path / "bees" / f"bad.{ending}"
    picture(bad, 100, 100)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) * 6 // 10])
    source = FolderSource("x", ("x",), np.zeros(2, np.int64), 16, [tmp_path / "ants" / "1.png", bad])
    with pytest.raises(AlitokError, match=r"bees/bad\.\w+ (cannot be decoded|is not a picture)") as caught:
        source.verify()
    assert "\n" not in str(caught.value)
    with pytest.raises(AlitokError, match=r"bees/bad\.\w+ (cannot be decoded|is not a picture)"):
        source.read(1, None)
    with pytest.raises(AlitokError, match=r"bees/bad\.\w+ (cannot be decoded|is not a picture)"):
        source.views(1, "ten")
    assert source.read(0, None).shape == (3, 16, 16)


def test_several_broken_pictures_are_all_named(tmp_path):
    two_classes(tmp_path, 14)
    for number in range(12):
        (tmp_path / "bees" / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(AlitokError) as caught:
        open_folder(tmp_path, 16, 0)
    lines = str(caught.value).splitlines()
    assert lines[0] == "12 pictures cannot be used:"
    assert lines[-1] == "... and 2 more"
    assert len(lines) == 12
