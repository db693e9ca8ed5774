import gzip
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.data.codes import CodeStore
from alitok.data.codes.shards import StoreWriter
from alitok.data.loader import CodeBatches

RNG = np.random.default_rng(0)
ROWS, LENGTH, CODES, CLASSES = 50, 7, 300, ("a", "b", "c")
ALL_CODES = RNG.integers(0, CODES, (ROWS, LENGTH))
LABELS = RNG.integers(0, len(CLASSES), ROWS)


@pytest.fixture
def write(stored):
    def written(path, **options):
        settings = {"codebook_size": CODES, "classes": CLASSES, "tokenizer": "hash", **options}
        return stored(path, ALL_CODES, LABELS, **settings)

    return written


@pytest.mark.parametrize("shard_rows", [1 << 20, 50, 13, 8, 1])
def test_round_trip_over_any_number_of_shards(tmp_path, write, shard_rows):
    store = CodeStore(write(tmp_path / "codes", shard_rows=shard_rows), "hash")
    assert len(store) == store.images == ROWS
    assert (store.length, store.codebook_size, store.crops, store.classes) == (LENGTH, CODES, 1, CLASSES)
    assert (store.labels == LABELS).all()
    assert store.labels.dtype == np.int64
    rows = RNG.permutation(ROWS)[:31]
    rows[3] = rows[4]
    assert (store.codes(rows) == ALL_CODES[rows]).all()
    assert store.codes(range(ROWS)).dtype == np.uint16
    assert store.codes([]).shape == (0, LENGTH)
    store.verify()


@pytest.fixture
def saved():
    return Path(__file__).resolve().parents[2] / "saved" / "store"


def test_a_store_of_format_2_is_read(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    assert (manifest["format"], manifest["split"]) == (2, "heldout")
    store = CodeStore(saved, "d21ae64c351d385d")
    store.verify()
    assert (store.images, store.crops, len(store)) == (359, 1, 359)
    assert (store.head.split, store.head.shard_images) == ("val", 64)
    assert store.key(0) == "digits held-out 0"
    codes = np.concatenate([np.load(saved / entry["codes"]["file"]) for entry in manifest["shards"]])
    assert (store.codes(range(359)) == codes).all()
    labels = np.concatenate([np.load(path) for path in sorted(saved.glob("lab*"))])
    assert store.image_labels.tolist() == labels.tolist()


def test_an_unfinished_store_of_format_2_is_resumed(tmp_path, saved):
    path = tmp_path / "codes"
    shutil.copytree(saved, path)
    job = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").unlink()
    for number, entry in enumerate(job.pop("shards")):
        if number != 3:
            (path / f"shard-{number:05d}.json").write_text(json.dumps(entry))
    (path / "job.json").write_text(json.dumps(job))
    writer = StoreWriter(path, CodeStore(saved).head)
    assert writer.prepare() == [3]
    whole = CodeStore(saved)
    images = range(192, 256)
    writer.write(3, whole.codes(images), whole.image_labels[images.start : images.stop], list(map(whole.key, images)))
    assert writer.finish()
    assert json.loads((path / "manifest.json").read_text())["format"] == 3
    store = CodeStore(path)
    store.verify()
    assert (store.codes(range(359)) == whole.codes(range(359))).all()


def test_the_largest_codes_survive(tmp_path, stored):
    codes = np.array([[65_535, 0, 65_534]])
    stored(tmp_path / "codes", codes, np.zeros(1), codebook_size=65_536, classes="a")
    assert CodeStore(tmp_path / "codes").codes([0]).tolist() == codes.tolist()


def test_too_large_a_codebook(tmp_path, write):
    with pytest.raises(AlitokError, match="65,537"):
        write(tmp_path / "codes", codebook_size=65_537)
    assert not (tmp_path / "codes").exists()


def test_a_code_or_label_out_of_range_is_never_stored(tmp_path, write):
    with pytest.raises(AssertionError):
        write(tmp_path / "codes", codebook_size=int(ALL_CODES.max()))
    with pytest.raises(AssertionError):
        write(tmp_path / "labels", classes=("a", "b"))
    assert {path.name for path in tmp_path.rglob("*.*")} == {"job.json"}


def test_codes_of_another_tokenizer_are_refused(tmp_path, write):
    path = write(tmp_path / "codes")
    with pytest.raises(AlitokError, match="made with another tokenizer; encode"):
        CodeStore(path, "other")
    CodeStore(path, None)


@pytest.mark.parametrize("name", ["codes-00001.npy", "labels-00000.npy"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_a_truncated_file_is_named(tmp_path, write, name, kept):
    path = write(tmp_path / "codes", shard_rows=20)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: int(len(whole) * kept) if kept == 0.5 else kept])
    with pytest.raises(AlitokError, match=name):
        CodeStore(path)


def test_missing_pieces_are_named(tmp_path, write):
    with pytest.raises(AlitokError, match="There are no codes at"):
        CodeStore(tmp_path / "none")
    path = write(tmp_path / "codes", shard_rows=20)
    (path / "codes-00002.npy").unlink()
    with pytest.raises(AlitokError, match=r"codes-00002\.npy is missing"):
        CodeStore(path)
    (path / "manifest.json").unlink()
    with pytest.raises(AlitokError, match=r"no manifest\.json"):
        CodeStore(path)


def test_missing_keys_are_reported_when_needed(tmp_path, write):
    path = write(tmp_path / "codes", shard_rows=20)
    store = CodeStore(path)
    assert store.key(49) == "49"
    (path / "keys-00001.json.gz").write_bytes(gzip.compress(b'["only one"]'))
    with pytest.raises(AlitokError, match=r"keys-00001\.json\.gz holds 1 keys"):
        store.key(20)
    (path / "keys-00001.json.gz").write_bytes(b"no gzip")
    with pytest.raises(AlitokError, match=r"keys-00001\.json\.gz is missing or damaged"):
        store.key(20)
    (path / "keys-00001.json.gz").unlink()
    with pytest.raises(AlitokError, match=r"keys-00001\.json\.gz is missing"):
        store.key(20)
    with pytest.raises(AlitokError, match=r"keys-00001\.json\.gz is missing"):
        store.verify()
    assert store.key(0) == "0"


def test_an_unfinished_store_is_not_read(tmp_path, write):
    path = write(tmp_path / "codes")
    (path / "manifest.json").rename(path / "job.json")
    with pytest.raises(AlitokError, match="unfinished; run the same alitok encode again"):
        CodeStore(path)


def test_too_many_open_files_are_reported(tmp_path, write):
    resource = pytest.importorskip("resource")
    path = write(tmp_path / "codes", shard_rows=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, limits[1]))
    try:
        with pytest.raises(AlitokError, match="Too many files are open"):
            CodeStore(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("change", [{"format": 1}, {"length": 8}, {"images": 49}, {"shards": []}, {"crops": 3}])
def test_a_manifest_that_does_not_fit(tmp_path, write, change):
    path = write(tmp_path / "codes")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(AlitokError, match="encode the images again"):
        CodeStore(path)


def test_a_manifest_that_lacks_a_key_or_is_invalid_json(tmp_path, write):
    path = write(tmp_path / "codes")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["classes"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AlitokError, match="lacks classes"):
        CodeStore(path)
    (path / "manifest.json").write_text(json.dumps(manifest | {"classes": 3}))
    with pytest.raises(AlitokError, match=r"is damaged \(manifest\.json: key 'classes'"):
        CodeStore(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(AlitokError, match="not valid JSON"):
        CodeStore(path)


@pytest.mark.parametrize("name", ["codes-00000.npy", "labels-00000.npy", "keys-00000.json.gz"])
def test_verify_finds_a_flipped_bit(tmp_path, write, name):
    path = write(tmp_path / "codes")
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    store = CodeStore(path)
    with pytest.raises(AlitokError, match=f"{name} is damaged"):
        store.verify()


def philox(seed, epoch, use):
    """The stream of an epoch, as the loader documents it."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, use]))


@pytest.mark.parametrize(("crops", "shard_rows"), [(1, 7), (5, 15), (10, 1)])
def test_batches_agree_with_a_plain_reader(tmp_path, write, crops, shard_rows):
    path, seed, size, start = write(tmp_path / "codes", crops=crops, shard_rows=shard_rows), 3, 8, 5
    files = sorted(path.glob("codes-*.npy"))
    assert len(files) > 2
    rows = np.concatenate([np.load(file) for file in files])
    labels = np.concatenate([np.load(file) for file in sorted(path.glob("labels-*.npy"))])
    images = ROWS // crops
    got = list(islice(iter(CodeBatches(CodeStore(path), size, seed, start)), 12))
    for step, (codes, classes) in enumerate(got, start):
        assert (codes.dtype, classes.dtype) == (torch.int64, torch.int64)
        for place in range(size):
            epoch, position = divmod(step * size + place, images)
            image = philox(seed, epoch, 1).permutation(images)[position]
            crop = philox(seed, epoch, 2).integers(crops, size=images)[image]
            assert codes[place].tolist() == rows[image * crops + crop].tolist()
            assert classes[place] == labels[image]


def test_over_many_epochs_all_crops_are_equally_frequent(tmp_path, stored):
    images, crops, epochs = 20, 10, 500
    codes = np.stack([np.repeat(np.arange(images), crops), np.tile(np.arange(crops), images)], axis=1)
    path = tmp_path / "codes"
    stored(path, codes, codes[:, 0], codebook_size=20, classes="abcdefghijklmnopqrst", crops=10)
    drawn = torch.cat([batch for batch, _ in islice(iter(CodeBatches(CodeStore(path), 20, 0)), epochs)])
    counts = np.zeros((images, crops))
    np.add.at(counts, tuple(drawn.numpy().T), 1)
    assert (counts.sum(1) == epochs).all()  # each image once an epoch
    expected = epochs / crops
    assert abs(counts.sum(0) / images - expected).max() < 5 * (expected / images) ** 0.5
    chi_square = ((counts - expected) ** 2 / expected).sum()  # 180 degrees of freedom: 180, give or take 19
    assert 180 - 4 * 19 < chi_square < 180 + 4 * 19
