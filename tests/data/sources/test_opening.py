import numpy as np
import pytest
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.sources.decoded import crops_per_image, fixed_views
from alitok.data.sources.opening import open_images, open_splits
from alitok.data.split import check_broken
from alitok.data.survey import Preview, preview, suggest_size


@pytest.mark.parametrize(
    ("data", "library", "crops"), [("digits", "sklearn", [1, 1, 1]), ("photos", "skimage", [1, 2, 10])]
)
def test_builtin_sets_fulfil_the_interface(data, library, crops):
    pytest.importorskip(library)
    splits = open_splits(data, 16)
    assert splits.train.classes == splits.val.classes
    assert [crops_per_image(splits.train, recipe) for recipe in ("centre", "flip", "ten")] == crops
    for source in (splits.train, splits.val):
        assert source.name.startswith(data)
        assert source.size == 16
        assert source.groups is None
        assert source.verify() == []
        assert len({source.key(index) for index in range(len(source))}) == len(source)
        assert source.labels.shape == (len(source),)
        assert source.labels.dtype == np.int64
        assert set(source.labels) == set(range(len(source.classes)))
        for rng in (None, np.random.default_rng(0)):
            image = source.read(len(source) - 1, rng)
            assert (image.shape, image.dtype) == ((3, 16, 16), np.uint8)
            assert image.flags.c_contiguous
        for recipe in ("centre", "flip", "ten"):
            views = source.views(len(source) - 1, recipe)
            assert (views.shape, views.dtype) == ((crops_per_image(source, recipe), 3, 16, 16), np.uint8)
            assert views.flags.c_contiguous
        assert (source.views(1, "centre")[0] == source.read(1, None)).all()


@pytest.mark.parametrize("option", ["", "?mirror=1", "?mirror=0"])
def test_images_are_mirrored_unless_they_must_not_be(tmp_path, option):
    folder_of(tmp_path, 10, 0)
    ramp = np.tile(np.arange(60, dtype=np.uint8)[None, :, None] * 4, (40, 1, 3))
    for path in tmp_path.rglob("*.png"):
        Image.fromarray(ramp).save(path)
    splits, mirrored = open_splits(f"{tmp_path}{option}", 16), option != "?mirror=0"
    assert splits.name == f"{tmp_path}{option}"
    for source in (splits.train, splits.val):
        assert source.views(0, "ten").shape[0] == (10 if mirrored else 5)
        assert source.views(0, "flip").shape[0] == (2 if mirrored else 1)
        rng = np.random.default_rng(0)
        rising = [read[0, 0, 0] < read[0, 0, -1] for read in (source.read(0, rng) for _ in range(30))]
        assert all(rising) is not mirrored


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{}?mirror=no", "The option mirror is 1 or 0, not 'no'"),
        ("photos?mirror=0", "photos takes no option mirror; it takes none"),
        ("{}?mirror=0&label=x", "takes no option label; it takes mirror"),
        ("{}?miror=0", "takes no option miror; did you mean mirror"),
        ("{}?mirror=0&foo=1", "takes no option foo; it takes split"),
        ("photos?miror=0", "photos takes no option miror; it takes none"),
    ],
)
def test_an_invalid_option_is_reported(tmp_path, data, said):
    folder_of(tmp_path, 10, 0)
    with pytest.raises(AlitokError, match=said):
        open_splits(data.format(tmp_path), 16)


@pytest.mark.parametrize("query", ["?a=1&a=2", "?id=7&confirm=", "?sig=x"])
def test_the_query_of_an_address_is_left_alone(query, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "alitok.data.sources.opening._open_archives", lambda name, options, say: seen.append((name, options))
    )
    for option in ("", "?mirror=0"):
        open_images(f"https://h/y.tar{query}{option}")
    assert seen == [(f"https://h/y.tar{query}", {})] * 2
    with pytest.raises(AlitokError, match="The option mirror is 1 or 0, not 'maybe'"):
        open_images(f"https://h/y.tar{query}?mirror=maybe")
    assert len(seen) == 2


def test_the_hash_of_a_folder_follows_its_files(tmp_path):
    splits = folder_of(tmp_path, 6, 0)
    assert splits.train.classes == ("cats", "dogs")
    assert (len(splits.train), len(splits.val)) == (4, 2)
    contents = {open_splits(str(tmp_path), 16, seed).contents for seed in (0, 1)}
    assert len(contents) == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "cats" / "9.png")
    contents.add(open_splits(str(tmp_path), 16).contents)
    (tmp_path / "cats" / "9.png").rename(tmp_path / "dogs" / "9.png")
    contents.add(open_splits(str(tmp_path), 16).contents)
    assert len(contents) == 3
    assert open_splits(str(tmp_path), 16).name == str(tmp_path.resolve())


def test_an_unknown_name_is_an_error_that_lists_known_ones():
    with pytest.raises(AlitokError, match=r"'digit': the path does not exist.*digits and photos"):
        open_splits("digit", 16)


@pytest.mark.parametrize(("data", "library"), [("digits", "sklearn"), ("photos", "skimage")])
def test_a_builtin_set_without_some_images_keeps_the_others_as_they_were(data, library):
    pytest.importorskip(library)
    train = open_splits(data, 16).train
    rest = train.without({train.key(0), train.key(5)})
    kept = [row for row in range(len(train)) if row not in (0, 5)]
    assert len(rest) == len(kept)
    assert (rest.labels == train.labels[kept]).all()
    for index in (0, 3, 4, len(rest) - 1):
        assert rest.key(index) == train.key(kept[index])
        for rng in (None, 1):
            draw, again = (None if rng is None else np.random.default_rng(rng) for _ in range(2))
            assert (rest.read(index, draw) == train.read(kept[index], again)).all()
        assert (rest.views(index, "ten") == train.views(kept[index], "ten")).all()
    assert rest.without({rest.key(0)}).key(0) == rest.key(1)
    assert train.without(()) is train


def folder_of(root, good, bad, classes=("cats", "dogs")):
    for name in classes:
        (root / name).mkdir()
    for number in range(good + bad):
        path = root / classes[number % len(classes)] / f"{number:04d}.png"
        path.write_bytes(b"no image") if number < bad else Image.new("RGB", (9, 9)).save(path)
    return open_splits(str(root), 16)


def checked(splits):
    """As a run does it."""
    broken = [*splits.train.verify(), *splits.val.verify()]
    check_broken(broken, splits)
    return splits.without({image.key for image in broken})


@pytest.mark.parametrize(("good", "bad"), [(200, 0), (198, 2), (99, 1)])
def test_a_hundredth_may_be_broken_and_is_left_out(tmp_path, good, bad):
    splits = folder_of(tmp_path, good, bad)
    rest = checked(splits)
    assert len(splits) == good + bad
    assert len(rest) == good
    for source in (rest.train, rest.val):
        assert all(source.read(index, None).shape == (3, 16, 16) for index in range(len(source)))
        assert source.verify() == []
    assert (rest.contents, rest.name) == (splits.contents, splits.name)


@pytest.mark.parametrize(("good", "bad"), [(197, 3), (98, 1), (20, 12)])
def test_more_than_a_hundredth_stops_with_the_list(tmp_path, good, bad):
    splits = folder_of(tmp_path, good, bad)
    with pytest.raises(AlitokError) as caught:
        checked(splits)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{bad} of {good + bad} images of {splits.name} cannot be used ({bad / (good + bad):.1%}")
    assert "replace or remove" in first
    assert len(lines) == min(bad, 11)
    assert all("is not an image that Pillow can read" in line for line in lines[:10])
    assert lines[10:] == (["... and 2 more"] if bad == 12 else [])


def test_a_class_must_keep_a_image_for_training(tmp_path):
    folder_of(tmp_path, 300, 0)
    (tmp_path / "rare").mkdir()
    (tmp_path / "rare" / "1.png").write_bytes(b"no image")
    with pytest.raises(AlitokError, match=r"Class 'rare' .* no usable image for training") as caught:
        checked(open_splits(str(tmp_path), 16))
    assert "rare/1.png is not an image" in str(caught.value)


def test_something_must_stay_val(tmp_path):
    for part, number in (("train", 200), ("val", 1)):
        (tmp_path / part).mkdir()
        for index in range(number):
            Image.new("RGB", (9, 9)).save(tmp_path / part / f"{index}.png")
    checked(open_splits(str(tmp_path), 16))
    (tmp_path / "val" / "0.png").write_bytes(b"no image")
    with pytest.raises(AlitokError, match="All validation images"):
        checked(open_splits(str(tmp_path), 16))


@pytest.mark.parametrize(
    ("sides", "size"),
    [([1], 16), ([16], 16), ([31, 31, 500], 16), ([32], 32), ([100, 130, 200], 128), ([255.5], 128), ([4000], 256)],
)
def test_the_size_that_at_least_half_of_the_images_fill(sides, size):
    assert suggest_size(sides) == size
    assert size == 16 or 2 * sum(side >= size for side in sides) >= len(sides)


def test_a_first_look_reads_headers_and_passes_over_what_is_broken(tmp_path):
    folder_of(tmp_path, 40, 4)
    Image.new("RGB", (40, 70)).save(tmp_path / "cats" / "0008.png")
    assert preview(str(tmp_path)) == Preview(16, 40)
    for path in tmp_path.rglob("*.png"):
        Image.new("RGB", (70, 64)).save(path)
    assert preview(str(tmp_path)) == Preview(64, 40)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(AlitokError, match="can be read"):
        preview(str(tmp_path))


@pytest.mark.parametrize("rows", [[], [5, 2, 2], np.array([1, 7]), range(0, 20, 3)])
def test_fixed_views_are_those_of_one_after_the_other(rows):
    pytest.importorskip("sklearn")
    source = open_splits("digits", 16).train
    views = fixed_views(source, rows)
    assert (views.shape, views.dtype) == ((len(rows), 3, 16, 16), np.uint8)
    for view, row in zip(views, rows, strict=True):
        assert np.array_equal(view, source.read(int(row), None))
