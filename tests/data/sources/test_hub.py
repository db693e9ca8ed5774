"""Hugging Face data sets on this machine, and the hub as far as it can be played without a network."""

import io
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.loader import Batches
from alitok.data.sources.opening import open_images, open_splits
from alitok.data.sources.table import find_columns

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def png(number, size=20):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (number % 256, number // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def data(numbers, label=None, names=("bee", "ant", "unused"), **more):
    """Images with their class as a ClassLabel, or as `label` gives it."""
    numbers = list(numbers)
    labels = [number % 2 for number in numbers] if label is None else [label(number) for number in numbers]
    columns = {"image": [{"bytes": png(number), "path": None} for number in numbers], "label": labels}
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    if label is not None:
        del features["label"]
    built = datasets.Dataset.from_dict(
        {**columns, **{name: [value] * len(numbers) for name, value in more.items()}},
        features=datasets.Features(features) if label is None and not more else None,
    )
    return built if label is None and not more else built.cast_column("image", datasets.Image())


def classes(images):
    return [images.classes[label] for label in images.labels]


def reds(images):
    return [np.asarray(Image.open(io.BytesIO(images.encoded(row))))[0, 0, 0].item() for row in range(len(images))]


def forms(tmp_path, built):
    """The same data set in every form that can be had on this machine."""
    built.to_parquet(tmp_path / "x.parquet")
    built.save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    (tmp_path / "x.arrow").write_bytes(arrow.read_bytes())
    (tmp_path / "folder").mkdir()
    built.to_parquet(tmp_path / "folder" / "x-00000.parquet")
    return ["x.parquet", "x.arrow", "saved", "folder", "x.parquet?streaming=1", "x.arrow?streaming=1"]


def test_all_forms_hold_the_same_images_and_classes(tmp_path):
    for form in forms(tmp_path, data(range(30))):
        images = open_images(f"{tmp_path}/{form}")
        assert reds(images) == list(range(30)), form
        assert classes(images) == ["bee", "ant"] * 15
        assert images.classes == ("bee", "ant")  # in the order of the data set, those without images left out
        assert images.notes[-1].startswith("1 of the 3 classes of ")
        assert len({images.key(row) for row in range(30)}) == 30
        assert images.val is None
        assert images.encoded(7) == png(7)


def test_batches_are_the_same_in_all_forms_for_any_number_of_workers_and_from_any_step(tmp_path):
    expected = None
    for form in forms(tmp_path, data(range(40)))[:5]:
        train = open_splits(f"{tmp_path}/{form}", 16, 3).train
        assert pickle.loads(pickle.dumps(train)).read(5, None).tolist() == train.read(5, None).tolist()
        for workers, start in ((0, 0), (2, 4)):
            iterator = iter(Batches(train, 8, 5, start, workers))
            batches = list(islice(iterator, 10 - start))
            iterator.close()
            expected = expected or batches
            for batch, same in zip(batches, expected[start:], strict=True):
                assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))


def test_labels_as_text_and_as_numbers(tmp_path):
    for number, (label, expected) in enumerate(
        [(lambda n: "yx"[n % 2], ("x", "y")), (lambda n: 10 - n % 3, ("8", "9", "10"))]
    ):
        data(range(9), label).to_parquet(tmp_path / f"{number}.parquet")
        images = open_images(f"{tmp_path}/{number}.parquet")
        assert images.classes == expected
        assert classes(images) == [str(label(n)) for n in range(9)]


def test_rows_without_a_label_or_a_image_are_named(tmp_path):
    table = pa.table(
        {
            "image": [{"bytes": png(n), "path": "x"} if n != 5 else None for n in range(8)],
            "label": [None if n == 3 else "a" for n in range(8)],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    for form, keys in (
        ("x.parquet", ["train/3", "train/5"]),
        ("x.parquet?streaming=1", ["train-00000.tar/000000003.png", "train-00000.tar/000000005.jpg"]),
    ):
        splits = open_splits(f"{tmp_path}/{form}", 16)
        broken = [*splits.train.verify(), *splits.val.verify()]
        assert sorted(tuple(each) for each in broken) == [
            (keys[0], "has no label"),
            (keys[1], "cannot be decoded (the file is empty)"),
        ]


def test_a_broken_image_stops_neither_a_table_nor_a_stream(tmp_path):
    images = [{"bytes": b"no image" if n == 4 else png(n), "path": None} for n in range(12)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": images, "label": ["a"] * 12}, features=features).to_parquet(
        tmp_path / "x.parquet"
    )
    for form in ("x.parquet", "x.parquet?streaming=1"):
        splits = open_splits(f"{tmp_path}/{form}", 16)
        (broken,) = [*splits.train.verify(), *splits.val.verify()]
        assert broken.reason == "is not an image that Pillow can read"
        assert len(splits) == 12


def test_images_as_plain_bytes_and_as_paths(tmp_path):
    (tmp_path / "1.png").write_bytes(png(1))
    pq.write_table(pa.table({"png": [png(0), png(1)], "class": ["a", "b"]}), tmp_path / "bytes.parquet")
    paths = {"image": [str(tmp_path / "1.png"), str(tmp_path / "gone.png")], "class": ["a", "a"]}
    pq.write_table(pa.table(paths), tmp_path / "paths.parquet")
    assert reds(open_images(f"{tmp_path}/bytes.parquet")) == [0, 1]
    for form in ("paths.parquet", "paths.parquet?streaming=1"):
        images = open_images(f"{tmp_path}/{form}")
        assert images.encoded(0) == png(1)
        splits = open_splits(f"{tmp_path}/{form}", 16)
        (broken,) = [*splits.train.verify(), *splits.val.verify()]
        assert broken.reason in ("does not exist", "cannot be decoded (the file is empty)")


def test_unlabelled_images_are_one_class(tmp_path):
    pq.write_table(pa.table({"image": [png(0), png(1)], "text": ["a", "b"]}), tmp_path / "x.parquet")
    for form in ("x.parquet", "x.parquet?streaming=1"):
        images = open_images(f"{tmp_path}/{form}")
        assert images.classes == ("x",)
        assert "no clear label column" in images.notes[0]
    assert open_images(f"{tmp_path}/x.parquet?label=text").classes == ("a", "b")


IMAGE, CLASS = datasets.Image(), datasets.ClassLabel(names=["a", "b"])
TEXT, NUMBER, BYTES = datasets.Value("string"), datasets.Value("int64"), datasets.Value("binary")


@pytest.mark.parametrize(
    ("features", "options", "expected"),
    [
        ({"image": IMAGE, "label": CLASS}, {}, ("image", "label")),
        ({"x": IMAGE, "y": CLASS, "label": NUMBER}, {}, ("x", "y")),
        ({"image": IMAGE, "mask_image": IMAGE, "label": NUMBER, "id": NUMBER}, {}, ("image", "label")),
        ({"img": IMAGE, "fine": CLASS, "coarse": CLASS}, {"label": "fine"}, ("img", "fine")),
        ({"img": BYTES, "Category": TEXT, "label": datasets.Value("float32")}, {}, ("img", "Category")),
        ({"a": IMAGE, "b": IMAGE, "label": TEXT}, {"image": "b"}, ("b", "label")),
        ({"image": {"bytes": BYTES, "path": TEXT}, "caption": TEXT}, {}, ("image", None)),
    ],
)
def test_the_columns_that_are_plain_to_see(features, options, expected):
    columns = find_columns(datasets.Features(features), options, "x")
    assert (columns.image, columns.label) == expected


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ({"a": IMAGE, "b": IMAGE}, {}, r"several columns that may be the image: a, b; add \?image=COLUMN"),
        ({"img": IMAGE, "fine": CLASS, "coarse": CLASS}, {}, r"may be the label: fine, coarse.*img \(image\)"),
        ({"text": TEXT, "label": CLASS}, {}, r"no clear image column.*text \(text\), label \(class\)"),
        ({"image": IMAGE}, {"label": "kind"}, r"x has no column 'kind'; its columns are: image \(image\)"),
        ({"image": IMAGE}, {"image": "kind"}, r"x has no column 'kind'"),
    ],
)
def test_columns_that_are_not_plain_to_see(features, options, message):
    with pytest.raises(AlitokError, match=message):
        find_columns(datasets.Features(features), options, "x")


def test_saved_splits(tmp_path):
    parts = {"train": data(range(6)), "test": data(range(6, 8)), "extra": data(range(8, 14))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    splits = open_splits(f"{tmp_path}/saved", 16)
    assert (len(splits.train), len(splits.val)) == (6, 2)
    assert splits.val.key(1) == "test/1"
    splits = open_splits(f"{tmp_path}/saved?split=extra&val=train", 16)
    assert (splits.train.key(0), splits.val.key(0)) == ("extra/0", "train/0")
    assert splits.name.endswith("/saved?split=extra&val=train")
    assert open_splits(splits.name, 16).contents == splits.contents
    with pytest.raises(AlitokError, match=r"no split 'val'; add \?split=NAME, one of: train, test, extra"):
        open_splits(f"{tmp_path}/saved?split=val", 16)


@pytest.mark.parametrize("place", ["parts", "parts/data"])
@pytest.mark.parametrize("streaming", ["", "?streaming=1"])
def test_files_named_after_their_parts(tmp_path, place, streaming):
    (tmp_path / place).mkdir(parents=True)
    data(range(6)).to_parquet(tmp_path / place / "train-00000-of-00002.parquet")
    data(range(6, 9)).to_parquet(tmp_path / place / "train-00001-of-00002.parquet")
    data(range(20, 24)).to_parquet(tmp_path / place / "validation-00000-of-00001.parquet")
    splits = open_splits(f"{tmp_path}/parts{streaming}", 16)
    assert (len(splits.train), len(splits.val)) == (9, 4)
    assert splits.val.read(0, None)[0, 0, 0] == 20
    files = f"{tmp_path}/{place}/train-{{00000..00001}}-of-00002.parquet?val={tmp_path}/{place}/val*.parquet"
    assert len(open_splits(files, 16).val) == 4


@pytest.mark.parametrize("streaming", ["", "?streaming=1"])
def test_folders_whose_names_hold_signs_of_patterns(tmp_path, streaming):
    for number, name in enumerate(("a[1]*{b}", "a1b")):
        (tmp_path / name).mkdir()
        data(range(10 * number, 10 * number + 4)).to_parquet(tmp_path / name / "x.parquet")
    for source in ("a[1]*{b}", "a[1]*{b}/x.parquet", "a[1]*{b}/?.parquet"):
        assert reds(open_images(f"{tmp_path}/{source}{streaming}")) == [0, 1, 2, 3]


def test_class_folders_are_used_and_not_a_table_beside_them(tmp_path):
    (tmp_path / "cat").mkdir()
    for number in range(3):
        (tmp_path / "cat" / f"{number}.png").write_bytes(png(number))
    pq.write_table(pa.table({"file_name": ["cat/0.png"]}), tmp_path / "metadata.parquet")
    images = open_images(str(tmp_path))
    assert images.classes == ("cat",)
    assert "metadata.parquet" in images.notes[0]


def test_an_image_in_a_repository_of_tables_is_not_a_class(tmp_path):
    for folder in ("data", "assets"):
        (tmp_path / folder).mkdir()
    data(range(6)).to_parquet(tmp_path / "data" / "train-0.parquet")
    (tmp_path / "assets" / "banner.png").write_bytes(png(1))
    images = open_images(str(tmp_path))
    assert images.classes == ("bee", "ant")
    assert "assets/banner.png" in images.notes[-1]


def test_the_hash_follows_rows_sizes_and_labels(tmp_path):
    hashes = []
    for number, built in enumerate([data(range(5)), data(range(6)), data(range(5), lambda n: "a"), data(range(5))]):
        built.to_parquet(tmp_path / f"{number}.parquet")
        hashes.append(open_images(f"{tmp_path}/{number}.parquet").contents)
    pq.write_table(pa.table({"image": [png(n, 9) for n in range(5)], "label": ["a"] * 5}), tmp_path / "size.parquet")
    hashes.append(open_images(f"{tmp_path}/size.parquet").contents)
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("x.parquet", "x cannot be loaded: "),
        ("x.arrow", "x cannot be loaded: "),
        ("x.parquet?streaming=1", "x"),
        ("x.parquet?streaming=yes", "streaming is 1 or 0, not 'yes'"),
        ("x.parquet?split=a", "takes no option split; it takes val, image, label, streaming"),
        ("x.parquet?val=x.arrow", "parquet and arrow files"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, monkeypatch, form, message):
    monkeypatch.chdir(tmp_path)
    for ending in ("parquet", "arrow"):
        (tmp_path / f"x.{ending}").write_bytes(b"hello" * 100)
    with pytest.raises(AlitokError, match=message) as caught:
        open_images(form)
    assert "\n" not in str(caught.value)


def shard_rows(monkeypatch, rows):
    """Archives of about so many rows."""
    monkeypatch.setattr(
        "alitok.data.sources.hub._SHARD_BYTES", rows * 2048 - 1024
    )  # a header and a block for each member


@pytest.mark.parametrize("stop_at", [0, 3, 7, 14, 15, 21])
def test_a_stream_that_breaks_off_is_gone_on_with(tmp_path, monkeypatch, stop_at):
    """In the end the archives are those of a stream that never broke, and whole archives are not written again."""
    shard_rows(monkeypatch, 5)
    data(range(22)).to_parquet(tmp_path / "x.parquet", batch_size=4)
    source = f"{tmp_path}/x.parquet?streaming=1"
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "unbroken"))
    expected = open_images(source)
    assert [path.name for path in sorted((tmp_path / "unbroken").glob("streams/*/*.tar"))] == [
        f"{number:05d}.tar" for number in range(5)
    ]
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "broken"))
    import alitok.data.sources.hub as streams

    real, seen = streams.encoded_image, []

    def fragile(value):
        if len(seen) == stop_at:
            raise ConnectionError("gone")
        seen.append(value)
        return real(value)

    monkeypatch.setattr(streams, "encoded_image", fragile)
    with pytest.raises(AlitokError, match=rf"broke off: gone. Run it again to resume at row {stop_at // 5 * 5}\."):
        open_images(source)
    whole = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken").glob("streams/*/*.tar")}
    assert len(whole) == stop_at // 5
    monkeypatch.setattr(streams, "encoded_image", real)
    images = open_images(source)
    assert reds(images) == reds(expected) == list(range(22))
    assert images.contents == expected.contents
    assert [images.key(row) for row in range(22)] == [expected.key(row) for row in range(22)]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in whole.items())


def test_a_finished_stream_is_not_read_again(tmp_path, monkeypatch):
    data(range(10)).to_parquet(tmp_path / "x.parquet")
    said = []
    first = open_images(f"{tmp_path}/x.parquet?streaming=1", said.append)
    assert said == ["10 rows of Split train of x read"]
    monkeypatch.setattr(datasets, "load_dataset", None)
    again = open_images(f"{tmp_path}/x.parquet?streaming=1")
    assert (again.contents, again.classes, again.notes) == (first.contents, first.classes, first.notes)


def test_a_stream_that_does_not_fit_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALITOK_CACHE_GB", "0.00001")
    shard_rows(monkeypatch, 5)
    data(range(22)).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(AlitokError, match="ALITOK_CACHE_GB"):
        open_images(f"{tmp_path}/x.parquet?streaming=1")


class Hub:
    """Stands for the hub: data sets by name and split."""

    def __init__(self, monkeypatch, splits):
        self.splits, self.calls = splits, []
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: list(splits))
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, name, config=None, *, split, streaming=False):
        self.calls.append((name, config, split, streaming))
        built = self.splits[split.partition("[")[0]]
        return built.to_iterable_dataset() if streaming else built


@pytest.mark.parametrize("streaming", ["", "streaming=1&"])
def test_a_data_set_of_the_hub(tmp_path, monkeypatch, streaming):
    for name, numbers in (("train", range(6)), ("test", range(6, 9)), ("other", range(9, 12))):
        data(numbers).save_to_disk(tmp_path / name)
    hub = Hub(monkeypatch, {name: datasets.load_from_disk(tmp_path / name) for name in ("train", "test", "other")})
    splits = open_splits(f"hf:owner/name?{streaming}config=full", 16)
    assert (len(splits.train), len(splits.val)) == (6, 3)
    assert splits.name == f"hf:owner/name?{streaming}config=full"
    assert hub.calls == [("owner/name", "full", split, bool(streaming)) for split in ("train", "test")]
    assert splits.val.read(0, None)[0, 0, 0] == 6
    assert len(open_splits("hf:owner/name?split=other", 16)) == 3
    assert len(open_splits("hf:owner/name?split=other&val=test", 16).val) == 3


def test_the_only_split_of_a_data_set(monkeypatch):
    Hub(monkeypatch, {"all": data(range(6))})
    assert len(open_splits("hf:owner/name", 16)) == 6
    Hub(monkeypatch, {"left": data(range(6)), "right": data(range(3))})
    with pytest.raises(AlitokError, match=r"no split 'train'; add \?split=NAME, one of: left, right"):
        open_splits("hf:owner/name", 16)


@pytest.mark.parametrize("source", ["hf:owner/name", "hf:owner/name?streaming=1"])
def test_the_hub_without_a_network_is_one_sentence(monkeypatch, source):
    def offline(name, config):
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "get_dataset_split_names", offline)
    with pytest.raises(
        AlitokError, match=r"^owner/name cannot be loaded: Couldn't reach .*; check .* network\.$"
    ) as caught:
        open_splits(source, 16)
    assert "\n" not in str(caught.value)


def test_a_slice_of_a_split_and_a_shuffled_data_set(monkeypatch, tmp_path):
    data(range(20)).to_parquet(tmp_path / "x.parquet")
    load = datasets.load_dataset
    files = {"train": str(tmp_path / "x.parquet")}
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["train"])
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, split, streaming: load("parquet", data_files=files, split=split, cache_dir=str(tmp_path)),
    )
    images = open_images("hf:owner/name?split=train[5:9]")
    assert reds(images) == [5, 6, 7, 8]
    assert images.key(2) == "train[5:9]/2"
    chosen = data(range(20)).select([9, 3, 4])
    chosen.save_to_disk(tmp_path / "saved")
    assert reds(open_images(str(tmp_path / "saved"))) == [9, 3, 4]


@pytest.mark.parametrize("streaming", ["", "?streaming=1"])
def test_class_names_that_are_written_oddly(tmp_path, streaming):
    data(range(6), names=(" be\u0301e ", "", "x")).to_parquet(tmp_path / "x.parquet")
    images = open_images(f"{tmp_path}/x.parquet{streaming}")
    assert images.classes == ("b\u00e9e", "class 1")
    assert classes(images) == ["b\u00e9e", "class 1"] * 3


def test_a_saved_data_set_without_splits_takes_no_split(tmp_path):
    data(range(6)).save_to_disk(tmp_path / "saved")
    with pytest.raises(AlitokError, match="takes no option split; it takes image, label"):
        open_images(f"{tmp_path}/saved?split=train")


def test_options_of_the_hub(monkeypatch):
    with pytest.raises(AlitokError, match=r"takes no option spilt; did you mean split\?"):
        open_images("hf:owner/name?spilt=x")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "x.parquet").touch()
    for source in ("hf:owner/name", f"{tmp_path}/x.parquet"):
        with pytest.raises(AlitokError, match=r"pip install 'alitok\[datasets\]'"):
            open_images(source)
