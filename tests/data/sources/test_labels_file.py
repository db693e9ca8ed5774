import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.sources.images import class_order
from alitok.data.sources.labels_file import label_name, read_labels
from alitok.data.sources.opening import open_images, open_splits

ROWS = {"a.png": "cat", "sub/b.png": "dog", "c.png": "cat"}


def images(root, names=ROWS):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(root / name)


def found(source):
    """Class by key, in the order of the source."""
    opened = open_images(str(source))
    return {opened.key(row): opened.classes[opened.labels[row]] for row in range(len(opened))}


FORMS = {
    "labels.csv": "file,label\na.png,cat\nsub/b.png,dog\nc.png,cat\n",
    "labels.json": json.dumps(ROWS),
    "labels.jsonl": "".join(json.dumps({"path": name, "class": label}) + "\n\n" for name, label in ROWS.items()),
    "metadata.csv": "\ufefffile_name;width;Category\r\n./a.png;3; cat\r\nsub/b.png;4;dog\r\nc.png;;cat\r\n\r\n",
    "metadata.jsonl": "".join(json.dumps({"file_name": name, "label": label}) + "\n" for name, label in ROWS.items()),
    "dataset.json": json.dumps({"labels": [list(row) for row in ROWS.items()]}),
}


@pytest.mark.parametrize("name", FORMS)
def test_all_forms_say_the_same_in_a_folder_and_by_themselves(tmp_path, name):
    images(tmp_path)
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8", newline="")
    for source in (tmp_path, tmp_path / name):
        assert list(found(source).items()) == sorted(ROWS.items())
        assert open_images(str(source)).classes == ("cat", "dog")
        assert open_images(str(source)).notes == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", json.dumps([{"image": "a.png", "category": 3, "size": 1}])),
        ("x.json", json.dumps({"labels": [["a.png", 3.0]]})),
        ("x.csv", "image\tlabel\na.png\t3\n"),
        ("x.csv", 'path,note,label\na.png,"two, with a\nline break",3\n'),
    ],
)
def test_other_ways_to_write_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    assert read_labels(tmp_path / name) == {"a.png": "3"}


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["b", "B", "a"], ("B", "a", "b")),
        (["e\u0301", "f", "\u00e9"], ("f", "\u00e9")),
    ],
)
def test_numbers_are_ordered_as_numbers_and_names_by_code_point(tmp_path, labels, order):
    names = [f"{number}.png" for number in range(3)]
    images(tmp_path, names)
    (tmp_path / "labels.json").write_text(json.dumps({"labels": list(zip(names, labels, strict=True))}))
    opened = open_images(str(tmp_path))
    assert opened.classes == order
    assert [opened.classes[label] for label in opened.labels] == [
        {"e\u0301": "\u00e9"}.get(label, str(label)) for label in labels
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.integers(-50, 50).map(str), st.text(max_size=3)), min_size=1, max_size=20))
def test_the_order_of_classes_depends_on_their_set_alone(names):
    order = class_order(names)
    assert order == class_order(reversed(names)) == class_order([*names, *names])
    assert len(set(order)) == len(order)


@pytest.mark.parametrize(
    ("label", "name"),
    [("a", "a"), (" b ", "b"), (3, "3"), (3.0, "3"), (3.5, None), (True, None), (None, None), ("", None), ([1], None)],
)
def test_what_stands_for_a_class(label, name):
    assert label_name(label) == name


def test_images_without_a_label_are_reported_and_not_used(tmp_path):
    images(tmp_path, [*ROWS, "z.png", "y/x.png", ".hidden.png"])
    (tmp_path / "labels.json").write_text(FORMS["labels.json"])
    assert list(found(tmp_path)) == sorted(ROWS)
    (note,) = open_images(str(tmp_path)).notes
    assert note.startswith("2 images without a label in ")
    assert "y/x.png" in note


def test_a_labelled_file_that_is_missing_counts_as_broken(tmp_path):
    images(tmp_path, ["a.png", "c.png"])
    (tmp_path / "labels.json").write_text(json.dumps({"a.png": "x", "gone.png": "x", "c.png": "x"}))
    splits = open_splits(str(tmp_path), 16)
    broken = [*splits.train.verify(), *splits.val.verify()]
    assert [tuple(each) for each in broken] == [("gone.png", "does not exist")]


def test_the_hash_follows_labels_too(tmp_path):
    images(tmp_path)
    hashes = set()
    for label in ("cat", "dog"):
        (tmp_path / "labels.json").write_text(json.dumps({**ROWS, "a.png": label}))
        hashes.add(open_images(str(tmp_path)).contents)
    assert len(hashes) == 2


def test_parts_may_have_labels_of_their_own(tmp_path):
    for part in ("train", "validation"):
        images(tmp_path / part)
        (tmp_path / part / "metadata.jsonl").write_text(FORMS["metadata.jsonl"])
    opened = open_images(str(tmp_path))
    assert opened.val.tolist() == [False] * 3 + [True] * 3
    assert [opened.key(row) for row in (0, 5)] == ["train/a.png", "validation/sub/b.png"]
    assert [opened.classes[label] for label in opened.labels] == ["cat", "cat", "dog"] * 2
    assert Image.open(tmp_path / opened.key(5)).size == (20, 20)
    assert opened.encoded(5) == (tmp_path / "validation" / "sub" / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "text"), [("metadata.csv", "file_name,text\n1.png,a cat\n"), ("labels.json", '{"n01": "tench"}')]
)
def test_a_file_that_labels_nothing_beside_class_folders_is_reported_and_not_used(tmp_path, name, text):
    images(tmp_path, ["n01/1.png", "n02/2.png"])
    (tmp_path / name).write_text(text)
    assert found(tmp_path) == {"n01/1.png": "n01", "n02/2.png": "n02"}
    assert "labels none of the images" in open_images(str(tmp_path)).notes[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "", r"no column of file names: the columns are none"),
        ("labels.csv", "a.png,cat\n", r"no column of file names: the columns are a\.png, cat; name one file"),
        ("labels.csv", "file,text\na.png,x\n", r"no column of labels: the columns are file, text; name one label"),
        ("labels.csv", "file,label\na.png\n", r"line 2: 1 fields where the header has 2"),
        ("labels.csv", "file,label\na.png,\nc.png,x\n", r"1 image without a label: a\.png"),
        ("labels.csv", "file,label\n", r"names no images"),
        ("labels.csv", "file,label\n,x\n", r"is not a file name"),
        ("labels.csv", "file,label\na.png,x\n./a.png,y\n", r"1 image with two classes: a\.png is x and y"),
        ("labels.csv", "file,label\nq.png,x\nr.png,y\n", r"None of the 2 files .*, such as 'q\.png', exists"),
        ("labels.json", "{", r"labels\.json, line 1: not valid JSON"),
        ("labels.json", "3", r"unknown form"),
        ("labels.json", '{"a.png": ["x"]}', r"unknown form"),
        ("labels.json", "[3]", r"should be an object"),
        ("labels.json", '{"labels": [["a.png", 1], ["a.png", 2]]}', r"two classes: a\.png is 1 and 2"),
        ("labels.json", '{"labels": [[1, 2]]}', r"1 is not a file name"),
        ("dataset.json", '{"labels": null}', r"holds no labels"),
        ("labels.jsonl", '{"file": "a.png", "label": "x"}\n{\n', r"labels\.jsonl, line 2: not valid JSON"),
        ("labels.jsonl", '{"file": "a.png"}\n', r"no column of labels"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, name, text, message):
    images(tmp_path, ["a.png", "c.png"])
    (tmp_path / name).write_text(text)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(AlitokError, match=message) as caught:
            open_images(str(source))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_rows_that_say_the_same_twice_are_one_image(tmp_path):
    images(tmp_path, ["a.png"])
    (tmp_path / "labels.csv").write_text("file,label\na.png,x\na.png,x\n")
    assert found(tmp_path) == {"a.png": "x"}


def test_several_labels_files(tmp_path):
    images(tmp_path)
    for name in ("labels.csv", "metadata.jsonl"):
        (tmp_path / name).write_text(FORMS[name])
    with pytest.raises(AlitokError, match=r"labels\.csv and metadata\.jsonl; give the one to use"):
        open_images(str(tmp_path))
    assert found(tmp_path / "labels.csv") == found(tmp_path / "metadata.jsonl") == ROWS


def test_text_in_another_encoding(tmp_path):
    images(tmp_path)
    (tmp_path / "labels.csv").write_bytes("file,label\na.png,K\xe4fer\n".encode("latin-1"))
    with pytest.raises(AlitokError, match="not UTF-8 text"):
        open_images(str(tmp_path))


def test_labels_of_a_whole_folder_split_as_class_folders_would(tmp_path):
    """The same images in the same order, so the same are held out."""
    names = [f"{label}/{number:02d}.png" for label in ("ant", "bee") for number in range(20)]
    images(tmp_path / "classes", names)
    images(tmp_path / "labels", names)
    rows = {name: name.split("/")[0] for name in names}
    (tmp_path / "labels" / "labels.json").write_text(json.dumps(rows))
    first, second = (open_splits(str(tmp_path / name), 16, 3).val for name in ("classes", "labels"))
    assert [first.key(row) for row in range(len(first))] == [second.key(row) for row in range(len(second))]
    assert np.array_equal(first.labels, second.labels)
