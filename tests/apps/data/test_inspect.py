import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from alitok.apps.data.inspect import run_inspect
from alitok.apps.data.options import InspectOptions
from alitok.core.errors import AlitokError
from alitok.data.crops import centre_crop
from alitok.data.sources.opening import open_splits
from alitok.data.survey import duplicates, survey


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "cache"))


def noise(seed, width=40, height=36):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def folder(root, classes=("ant", "bee"), each=60, **sides):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for row in range(each):
            noise(1000 * number + row, **sides).save(root / name / f"{row:03d}.png")
    return root


def inspect(source, **options):
    """What is returned, and what is printed."""
    text = io.StringIO()
    facts = run_inspect(str(source), InspectOptions(**options), console=Console(file=text, width=120))
    return facts, text.getvalue()


def refused(source, **options):
    """What is printed, and the error at the end."""
    text = io.StringIO()
    with pytest.raises(AlitokError) as caught:
        run_inspect(str(source), InspectOptions(**options), console=Console(file=text, width=120))
    return text.getvalue(), str(caught.value)


def test_a_clean_folder(tmp_path):
    facts, text = inspect(folder(tmp_path / "pets"), json=tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == facts
    assert facts["classes"] == {name: {"images": 60, "train": 54, "val": 6} for name in ("ant", "bee")}
    assert facts["images"] == 120
    assert facts["broken"] == facts["duplicates"]["groups"] == facts["notes"] == []
    assert {kind: entry["images"] for kind, entry in facts["kinds"].items()} == {"plain RGB": 120}
    assert facts["sizes"]["width"] == {"min": 40, "median": 40, "max": 40}
    assert facts["sizes"]["short side"] == {"min": 36, "median": 36, "max": 36}
    assert facts["sizes"]["short sides"] == {"32 to 63": 120}
    assert facts["training"] == {
        "image size": 32,
        "size given": False,
        "train": 108,
        "val": 12,
        "enlarged": 0,
        "mirrored": True,
        "crops": 10,
        "ten-crop sequences": 1080,
        "stops": False,
    }
    assert facts["contents"] == open_splits(str(tmp_path / "pets"), 16).contents
    for part in ("120 images of 2 classes", "ant", "bee", "32 px, chosen", "No two images"):
        assert part in text
    assert re.search(r"mirrored +at random", text)
    assert re.search(r"stored sequences +1,080: 10 crops per image", text)
    assert (tmp_path / "here" / "inspect-pets.png").exists()
    facts, text = inspect(f"{tmp_path}/pets?mirror=0")
    assert facts["training"]["ten-crop sequences"] == 540
    assert (facts["training"]["mirrored"], facts["training"]["crops"]) == (False, 5)
    assert re.search(r"mirrored +never", text)
    assert re.search(r"stored sequences +540: 5 crops per image", text)


def test_the_plan_is_what_training_would_do(tmp_path):
    for seed in (0, 3):
        facts, _ = inspect(folder(tmp_path / f"pets{seed}"), size=64, seed=seed)
        splits = open_splits(str(tmp_path / f"pets{seed}"), 64, seed)
        assert facts["training"]["train"] == len(splits.train)
        assert facts["training"]["enlarged"] == 120
        assert facts["training"]["size given"]


def test_all_kinds_are_counted_and_one_of_each_is_named(tmp_path):
    root = folder(tmp_path / "pets", each=300, width=17, height=16)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0).convert("L").save(root / "ant" / "grey.png")
    noise(1).convert("L").save(root / "bee" / "grey.png")
    noise(2).convert("CMYK").save(root / "ant" / "cmyk.jpg")
    noise(3).convert("P").save(root / "ant" / "palette.png")
    noise(4).convert("RGBA").save(root / "ant" / "alpha.png")
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(root / "ant" / "deep.png")
    noise(5, 30, 90).save(root / "ant" / "turned.jpg", exif=exif)
    noise(6).save(root / "ant" / "animated.webp", save_all=True, append_images=[noise(7)])
    facts, text = inspect(root)
    counts = {kind: entry["images"] for kind, entry in facts["kinds"].items()}
    assert counts == {
        "plain RGB": 600,
        "grey": 3,
        "16-bit": 1,
        "CMYK": 1,
        "palette": 1,
        "alpha": 1,
        "turned by EXIF": 1,
        "animated": 1,
    }
    assert facts["kinds"]["turned by EXIF"]["example"] == "ant/turned.jpg"
    assert facts["kinds"]["grey"]["example"] in ("ant/grey.png", "bee/grey.png", "ant/deep.png")
    assert facts["sizes"]["width"]["max"] == 90  # of the turned one, upright
    assert "turned by EXIF" in text
    assert "ant/cmyk.jpg" in text


def test_a_hundredth_may_be_broken(tmp_path):
    root = folder(tmp_path / "pets", each=99, width=17, height=16)
    (root / "ant" / "no.png").write_bytes(b"no image")
    (root / "bee" / "em.png").write_bytes(b"")
    facts, text = inspect(root)
    assert sorted((each["key"], each["reason"]) for each in facts["broken"]) == [
        ("ant/no.png", "is not an image that Pillow can read"),
        ("bee/em.png", "cannot be decoded (the file is empty)"),
    ]
    assert facts["training"]["train"] + facts["training"]["val"] == 198
    assert not facts["training"]["stops"]
    assert "2 cannot be used" in text
    assert "bee/em.png cannot be decoded (the file is empty)" in text


@pytest.mark.parametrize("broken", [10, 13])
def test_a_list_that_was_cut_says_where_the_whole_one_is(tmp_path, broken):
    root = folder(tmp_path / "pets", each=6)
    for number in range(broken):
        (root / "ant" / f"b{number:02d}.png").write_bytes(b"no image")
        noise(number).save(root / "bee" / f"{number:03d}.png")
        noise(number).save(root / "ant" / f"{number:03d}.png")
    alone, _ = refused(root)
    with_json, _ = refused(root, json=tmp_path / "found.json")
    facts = json.loads((tmp_path / "found.json").read_text())
    assert (len(facts["broken"]), len(facts["duplicates"]["across classes"])) == (broken, broken)
    assert alone.count("... and 3 more; --json FILE writes them all\n") == 2 * (broken > 10)
    assert with_json.count(f"... and 3 more; all are in {tmp_path}/found.json\n") == 2 * (broken > 10)
    assert (broken > 10) == ("more" in alone)


def test_with_more_broken_everything_is_reported_before_the_error(tmp_path):
    root = folder(tmp_path / "pets", each=30)
    whole = (root / "ant" / "001.png").read_bytes()
    (root / "ant" / "cut.png").write_bytes(whole[: len(whole) // 2])
    noise(1, 7, 30).save(root / "bee" / "small.png")
    text, error = refused(root, json=tmp_path / "found.json", sheet=tmp_path / "sheet.png")
    for part in ("62 images", "2 cannot be used", "ant/cut.png cannot be decoded (image file is truncated"):
        assert part in text
    assert "bee/small.png is 7 x 30 px" in text
    assert re.search(r"would it start\W+no", text)
    assert error.startswith("2 of 62 images")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["training"]["stops"]
    assert found["training"]["train"] + found["training"]["val"] == 60
    assert (tmp_path / "sheet.png").exists()


def test_the_error_is_the_one_of_a_training(tmp_path):
    from alitok.data.split import check_broken

    root = folder(tmp_path / "pets", each=30)
    for number in range(13):
        (root / "bee" / f"{number:03d}.png").write_bytes(b"no image")
    _, error = refused(root, size=32)
    splits = open_splits(str(root), 32)
    with pytest.raises(AlitokError) as caught:
        check_broken([*splits.train.verify(), *splits.val.verify()], splits)
    assert error == str(caught.value)


def test_images_that_are_too_small_count_at_the_size_that_is_used(tmp_path):
    root = folder(tmp_path / "pets", each=30)
    assert inspect(root, size=128)[0]["training"]["enlarged"] == 60
    _, error = refused(root, size=256)
    assert error.startswith("60 of 60 images")
    assert "is 40 x 36 px; an image size of 256 needs at least 64 px" in error


def test_duplicates_by_brute_force(tmp_path):
    """Few enough pixels that many images are the same."""
    rng = np.random.default_rng(0)
    for number in range(80):
        path = tmp_path / "pets" / ("train", "val")[number % 4 == 0] / "abc"[number % 3] / f"{number:03d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), tuple(rng.integers(0, 4, 3).tolist())).save(path)
    splits = open_splits(str(tmp_path / "pets"), 16)
    found = survey(splits)
    same = duplicates(found)
    keys = [found.source.key(index) for index in range(80)]
    expected = {}
    for index, key in enumerate(keys):
        expected.setdefault(Image.open(tmp_path / "pets" / key).tobytes(), []).append(index)
    groups = [group for group in expected.values() if len(group) > 1]
    assert [group.tolist() for group in same.groups] == groups
    assert same.surplus == sum(len(group) - 1 for group in groups)
    parts = [[key.split("/") for key in (keys[index] for index in group)] for group in groups]
    assert same.across_classes == [n for n, part in enumerate(parts) if len({path[1] for path in part}) > 1]
    assert same.across_splits == [n for n, part in enumerate(parts) if len({path[0] for path in part}) > 1]
    assert 0 < len(same.across_splits) < len(groups)


def test_duplicates_are_called_out(tmp_path):
    root = folder(tmp_path / "pets" / "train", each=3)
    folder(tmp_path / "pets" / "val", each=1, width=41)
    same = (root / "ant" / "000.png").read_bytes()
    for name in ("train/bee/x.png", "val/ant/y.png", "train/ant/z.png"):
        (tmp_path / "pets" / name).write_bytes(same)
    facts, text = inspect(tmp_path / "pets")
    group = ["train/ant/000.png", "train/ant/z.png", "train/bee/x.png", "val/ant/y.png"]
    assert facts["duplicates"] == {
        "surplus": 3,
        "groups": [group],
        "across classes": [group],
        "across train and val": [group],
    }
    assert "Copies of another image, pixel for pixel: 3, such as train/ant/000.png and train/ant/z.png." in text
    assert "Of these, in different classes: 1\n" in text
    assert "Of these, in both train and val: 1\n" in text


def test_broken_images_are_no_duplicates_of_each_other(tmp_path):
    root = folder(tmp_path / "pets", each=200, width=17, height=16)
    for number in range(4):
        (root / "ant" / f"{number:03d}.png").write_bytes(b"no image")
    facts, _ = inspect(root)
    assert facts["duplicates"]["surplus"] == 0


def cells(path, pad=4, cell=96, caption=14):
    """The images of a contact sheet, row by row."""
    sheet = np.asarray(Image.open(path))
    rows, columns = (sheet.shape[0] - pad) // (cell + caption + pad), (sheet.shape[1] - pad) // (cell + pad)
    for row in range(rows):
        for column in range(columns):
            top, left = pad + row * (cell + caption + pad), pad + column * (cell + pad)
            yield sheet[top : top + cell, left : left + cell]


def test_the_contact_sheet_shows_centre_crops_of_all_classes(tmp_path):
    root = folder(tmp_path / "pets", classes=("ant", "bee", "cat"), each=4)
    inspect(root, sheet=tmp_path / "sheet.png")
    shown = list(cells(tmp_path / "sheet.png"))[:12]
    expected = [centre_crop(Image.open(path), 96) for path in sorted(root.rglob("*.png"))]
    splits = open_splits(str(root), 16)
    order = [splits.train.key(row) for row in range(len(splits.train))]
    order += [splits.val.key(row) for row in range(len(splits.val))]
    order.sort(key=lambda key: key.split("/")[0])  # stable: training first in each class
    assert {cell.tobytes() for cell in shown} == {np.asarray(image).tobytes() for image in expected}
    for cell, key in zip(shown, order, strict=True):
        assert np.array_equal(cell, np.asarray(centre_crop(Image.open(root / key), 96)))


def test_the_contact_sheet_is_fair_to_small_classes_and_bounded(tmp_path):
    root = folder(tmp_path / "pets", classes=("ant",), each=100)
    for name in ("bee", "cat"):
        folder(root / "more", classes=(name,), each=2, width=44 + ord(name[0]))
        (root / "more" / name).rename(root / name)
    (root / "more").rmdir()
    inspect(root, sheet=tmp_path / "sheet.png")
    shown = [cell.tobytes() for cell in cells(tmp_path / "sheet.png") if (cell != 255).any()]
    assert len(shown) == len(set(shown)) == 64  # all of the small classes, and 60 of ant
    for name in ("bee", "cat"):
        for path in (root / name).iterdir():
            assert np.asarray(centre_crop(Image.open(path), 96)).tobytes() in shown


def test_many_classes_are_cut_to_the_largest_and_the_smallest(tmp_path):
    for number in range(70):
        name = tmp_path / "pets" / f"class{number:02d}"
        name.mkdir(parents=True)
        for row in range(2 + (number == 33) - (number == 44)):
            noise(100 * number + row, 16, 16).save(name / f"{row}.png")
    facts, text = inspect(tmp_path / "pets")
    assert len(facts["classes"]) == 70
    listed = re.findall(r"(?m)^(class\d\d|\.\.\. 30 more \.\.\.) ", text)
    assert len(listed) == 41
    assert (listed[0], listed[20], listed[-1]) == ("class33", "... 30 more ...", "class44")
    assert len({cell.tobytes() for cell in cells("inspect-pets.png")}) == 64


@pytest.mark.parametrize(("source", "library", "size"), [("digits", "sklearn", 16), ("photos", "skimage", 32)])
def test_builtin_sets(source, library, size):
    pytest.importorskip(library)
    facts, text = inspect(source, json=None)
    splits = open_splits(source, size)
    assert facts["training"]["image size"] == size
    assert facts["images"] == len(splits)
    assert sum(entry["train"] for entry in facts["classes"].values()) == len(splits.train)
    assert facts["training"]["ten-crop sequences"] == len(splits.train) * (1 if source == "digits" else 10)
    assert f"{len(splits):,} images" in text


def test_notes_and_names_with_brackets_are_printed_as_they_are(tmp_path):
    root = folder(tmp_path / "pets", classes=("[red]", "[/b]"), each=3)
    noise(0).save(root / "beside.png")
    facts, text = inspect(root)
    assert "[red]" in text
    assert "[/b]" in text
    assert facts["notes"][0] in text


def test_names_that_are_no_text_are_printed_and_written_all_the_same(tmp_path):
    root = folder(tmp_path / "pets", each=3)
    try:
        os.rename(root / "bee", os.fsencode(root) + b"/b\xff")  # noqa: PTH104 (bytes)
    except OSError:
        pytest.skip("this file system has names of text only")
    facts, text = inspect(root, json=tmp_path / "found.json", sheet=tmp_path / "sheet.png")
    text.encode()
    assert "b\\udcff" in facts["classes"]
    assert json.loads((tmp_path / "found.json").read_text()) == facts


def test_nothing_that_can_be_read(tmp_path):
    root = tmp_path / "pets"
    for name in ("ant/1.png", "ant/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    text, error = refused(root)
    assert error.startswith("2 of 2 images")
    assert not list((tmp_path / "here").iterdir())
    assert "2 cannot be used" in text


def test_a_sheet_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AlitokError, match=r"contact sheet .* cannot be written"):
        inspect(folder(tmp_path / "pets", each=3), sheet=tmp_path / "file" / "sheet.png")
