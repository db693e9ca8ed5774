"""The writer of code stores against an independent reader, and what it does when it is killed, repeated or misled."""

import errno
import gzip
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alitok.core.errors import AlitokError
from alitok.data.codes import CodeStore, shards
from alitok.data.codes.shards import StoreHead, StoreWriter, crop_names, label_type, shard_images

LENGTH = 6
HEAD = StoreHead(
    images=23,
    length=LENGTH,
    codebook_size=500,
    recipe="flip",
    crops=("centre", "centre, mirrored"),
    classes=("a", "b", "c"),
    tokenizer="print",
    shard_images=5,
)
CODES = np.random.default_rng(0).integers(0, 500, (46, LENGTH))
LABELS = np.arange(23) % 3
KEYS = [f"{'abc'[number % 3]}/{number}.png" for number in range(23)]
KEYS[7] = 'a/"quoted"\n, new line, \udcff and é 図.png'  # names of files may hold nearly anything


def write(path, numbers=None, head=HEAD, finish=True):
    writer = StoreWriter(path, head)
    for number in writer.prepare() if numbers is None else numbers:
        images = head.shard(number)
        rows = slice(2 * images.start, 2 * images.stop)
        here = slice(images.start, images.stop)
        writer.write(number, CODES[rows], LABELS[here], KEYS[here])
    assert not finish or writer.finish()
    return path


def files(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def independent(path):
    """All rows of a store by the description in the manual: numpy, gzip and json alone."""
    manifest = json.loads((path / "manifest.json").read_text())
    rows, names = [], set()
    for shard in manifest["shards"]:
        content = {}
        for kind in ("codes", "labels", "keys"):
            data = (path / shard[kind]["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == shard[kind]["sha256"]
            assert len(data) == shard[kind]["bytes"]
            names.add(shard[kind]["file"])
            content[kind] = path / shard[kind]["file"]
        codes, labels = np.load(content["codes"]), np.load(content["labels"])
        keys = json.loads(gzip.decompress(content["keys"].read_bytes()))
        crops = manifest["crops"]
        assert codes.dtype == np.uint16
        assert len(keys) == len(labels) == shard["images"] == len(codes) // len(crops)
        for row, sequence in enumerate(codes):
            image = row // len(crops)
            rows.append((keys[image], crops[row % len(crops)], int(labels[image]), sequence.tolist()))
    assert {entry.name for entry in path.iterdir()} == {"manifest.json", *names}
    return manifest, rows


def test_an_independent_reader_finds_every_crop_of_every_image_in_order(tmp_path):
    manifest, rows = independent(write(tmp_path / "codes"))
    assert [key for key, *_ in rows] == [key for key in KEYS for _ in range(2)]
    assert [crop for _, crop, *_ in rows] == ["centre", "centre, mirrored"] * 23
    assert [label for _, _, label, _ in rows] == np.repeat(LABELS, 2).tolist()
    assert [codes for *_, codes in rows] == CODES.tolist()
    assert [shard["images"] for shard in manifest["shards"]] == [5, 5, 5, 5, 3]
    assert (manifest["format"], manifest["tokenizer"], manifest["classes"]) == (3, "print", ["a", "b", "c"])
    store = CodeStore(tmp_path / "codes", "print")
    store.verify()
    assert store.head == HEAD
    for row, (key, crop, label, codes) in enumerate(rows):
        assert (store.key(row // 2), store.crop_name(row), store.labels[row]) == (key, crop, label)
        assert store.codes([row])[0].tolist() == codes
    assert store.image_labels.dtype == np.uint16


@given(images=st.integers(1, 10**8), crops=st.sampled_from([1, 2, 5, 10]))
def test_shards_are_large_and_not_too_many(images, crops):
    each = shard_images(images, crops)
    shards = -(-images // each)
    assert 1 <= each <= images
    assert shards <= 520  # files open at a time; whole images make it a few more than 512
    assert each * crops <= max(1 << 15, images * crops / 512 + crops)
    if images * crops >= 1 << 18:
        assert each * crops > (1 << 15) - crops
    elif images >= 512:
        assert shards >= 8  # for several processes


@given(images=st.integers(1, 300), each=st.integers(1, 50))
def test_every_image_is_in_one_shard(images, each):
    head = replace(HEAD, images=images, shard_images=each)
    assert [image for number in range(head.shards) for image in head.shard(number)] == list(range(images))


def test_names_of_crops():
    assert crop_names("centre", 1) == crop_names("ten", 1) == ("centre",)
    assert crop_names("flip", 2) == ("centre", "centre, mirrored")
    ten = crop_names("ten", 10)
    assert ten[:6] == ("top left", "top right", "bottom left", "bottom right", "centre", "top left, mirrored")
    assert crop_names("ten", 5) == ten[:5]
    assert crop_names("ten", 10, drawn=True)[4:6] == ("place 5", "place 1, mirrored")
    with pytest.raises(AssertionError):
        crop_names("ten", 7)


@pytest.mark.parametrize(("crops", "images"), [(1, 40_000), (2, 20_000), (10, 5_000)])
def test_a_store_is_at_most_a_twentieth_larger_than_its_codes(tmp_path, crops, images):
    """Measured on disk, with keys like ImageNet's: a thousand classes, sorted, a number of its own per image."""
    rng = np.random.default_rng(0)
    classes = tuple(f"n{number:08d}" for number in np.sort(rng.choice(10**7, 1000, replace=False)))
    labels = np.arange(images) * len(classes) // images
    keys = [f"{classes[label]}/{classes[label]}_{rng.integers(1, 30_000)}.JPEG" for label in labels]
    names = crop_names({1: "centre", 2: "flip", 10: "ten"}[crops], crops)
    each = shard_images(images, crops)
    head = replace(HEAD, images=images, crops=names, classes=classes, length=272, codebook_size=4096)
    writer = StoreWriter(tmp_path / "codes", replace(head, shard_images=each))
    for number in writer.prepare():
        here = writer.head.shard(number)
        codes = rng.integers(0, 4096, (len(here) * crops, 272))
        writer.write(number, codes, labels[here.start : here.stop], keys[here.start : here.stop])
    assert writer.finish()
    size = sum(file.stat().st_size for file in (tmp_path / "codes").iterdir())
    assert 1 < size / images / (2 * 272 * crops) <= 1.05


@pytest.mark.parametrize(("classes", "kind"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.int32)])
def test_labels_are_as_small_as_the_classes_allow(tmp_path, classes, kind):
    assert label_type(classes) == kind
    head = replace(HEAD, images=1, classes=tuple(map(str, range(classes))))
    writer = StoreWriter(tmp_path / "codes", head)
    assert writer.prepare() == [0]
    writer.write(0, CODES[:2], np.array([classes - 1]), ["a"])
    assert writer.finish()
    store = CodeStore(tmp_path / "codes")
    assert store.image_labels.dtype == kind
    assert store.labels.tolist() == [classes - 1] * 2


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)), cut=st.integers(0, 5))
def test_written_in_any_order_and_by_any_number_of_writers_it_is_the_same(tmp_path_factory, order, cut):
    whole = files(write(tmp_path_factory.mktemp("whole") / "codes"))
    path = tmp_path_factory.mktemp("other") / "codes"
    assert StoreWriter(path, HEAD).prepare() == list(range(5))
    write(path, order[:cut], finish=False)
    second = StoreWriter(path, HEAD)
    assert second.prepare() == sorted(order[cut:])
    if cut < 5:
        assert not second.finish()
        assert not (path / "manifest.json").exists()
    write(path, order[cut:])
    assert files(path) == whole


def begun_at_once(path, heads, monkeypatch):
    """Each head prepared by a thread of its own, all of which have found the directory empty before one writes."""
    real, barrier = shards.find_head, threading.Barrier(len(heads))

    def find_head(place):
        found = real(place)
        if found is None:
            barrier.wait(30)
        return found

    monkeypatch.setattr(shards, "find_head", find_head)

    def attempt(head):
        try:
            return StoreWriter(path, head).prepare()
        except AlitokError as error:
            return str(error)

    with ThreadPoolExecutor(len(heads)) as pool:
        outcomes = list(pool.map(attempt, heads))
    monkeypatch.undo()
    return outcomes


@pytest.mark.parametrize("links", [True, False])
def test_of_jobs_with_other_settings_that_begin_at_once_one_goes_on(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "no links here")))
    heads = [replace(HEAD, tokenizer=str(number)) for number in range(6)]
    outcomes = begun_at_once(tmp_path / "codes", heads, monkeypatch)
    chosen = StoreWriter(tmp_path / "codes", HEAD)
    with pytest.raises(AlitokError, match=r"conflicting settings \(tokenizer\)"):
        chosen.prepare()
    assert set(files(tmp_path / "codes")) == {"job.json"}
    if links:
        winner = json.loads((tmp_path / "codes" / "job.json").read_text())["tokenizer"]
        assert [outcome == list(range(5)) for outcome in outcomes] == [head.tokenizer == winner for head in heads]
        conflict = "conflicting settings (tokenizer); start over with --fresh"
        assert sum(conflict in str(outcome) for outcome in outcomes) == 5


def test_jobs_with_the_same_settings_that_begin_at_once_all_go_on(tmp_path, monkeypatch):
    heads = [replace(HEAD, tokenizer_path=str(number)) for number in range(6)]
    assert begun_at_once(tmp_path / "codes", heads, monkeypatch) == [list(range(5))] * 6


def test_a_finished_store_is_left_as_it_is(tmp_path):
    path = write(tmp_path / "codes")
    before = {entry.name: entry.stat().st_mtime_ns for entry in path.iterdir()}
    writer = StoreWriter(path, replace(HEAD, tokenizer_path="elsewhere"))
    assert writer.prepare() == []
    assert writer.finish()
    assert writer.finish()
    assert {entry.name: entry.stat().st_mtime_ns for entry in path.iterdir()} == before


def test_the_store_remembers_the_tokenizer_of_the_first_writer(tmp_path):
    path = tmp_path / "codes"
    StoreWriter(path, replace(HEAD, tokenizer_path="first")).prepare()
    write(path, range(5), replace(HEAD, tokenizer_path="second"))
    assert CodeStore(path).head.tokenizer_path == "first"


@pytest.mark.parametrize("name", ["codes-00001.npy", "labels-00001.npy", "keys-00001.json.gz", "shard-00001.json"])
@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_shard_that_lost_a_file_is_made_again(tmp_path, name, damage):
    path = tmp_path / "codes"
    StoreWriter(path, HEAD).prepare()
    write(path, [0, 1, 2], finish=False)
    (path / name).unlink() if damage == "gone" else os.truncate(path / name, 3)
    assert StoreWriter(path, HEAD).prepare() == [1, 3, 4]


def test_killed_between_manifest_and_tidying_it_is_finished_all_the_same(tmp_path):
    path, whole = tmp_path / "codes", files(write(tmp_path / "whole"))
    StoreWriter(path, HEAD).prepare()
    write(path, range(5), finish=False)
    (path / "manifest.json").write_bytes(whole["manifest.json"])
    (path / "shard-00003.json").unlink()
    (path / ".codes-00001.npy.123.part").write_bytes(b"of a killed process")
    assert len(CodeStore(path)) == 46
    writer = StoreWriter(path, HEAD)
    assert writer.prepare() == []
    assert writer.finish()
    assert files(path) == whole


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    path = tmp_path / "codes"
    path.mkdir()
    (path / ".job.json.77.part").write_text("{")
    (path / "..job.json.77.part.99.part").write_text("{")
    StoreWriter(path, HEAD).prepare()
    for name in ("codes-00000.npy", "labels-00002.npy", "keys-00001.json.gz", "shard-00004.json"):
        (path / f".{name}.99.part").write_bytes(b"half")
    assert files(write(path)) == files(write(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tokenizer": "other"}, "tokenizer"),
        ({"recipe": "ten"}, "crops"),
        ({"source": "elsewhere"}, "data"),
        ({"contents": "changed"}, "contents of the data"),
        ({"listing": "changed"}, "images"),
        ({"split": "train"}, "split"),
        ({"image_size": 64}, "image size"),
        ({"batch_size": 3}, "batch size"),
        ({"classes": ("a", "b", "d")}, "classes"),
        ({"shard_images": 6}, "images per shard"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_are_refused_by_name(tmp_path, change, word, finished):
    path = tmp_path / "codes"
    StoreWriter(path, HEAD).prepare()
    write(path, range(5) if finished else [0], finish=finished)
    before = files(path)
    with pytest.raises(AlitokError, match=rf"conflicting settings \({word}\); start over with --fresh, or choose"):
        StoreWriter(path, replace(HEAD, **change)).prepare()
    assert files(path) == before
    assert len(StoreWriter(path, replace(HEAD, **change)).prepare(fresh=True)) > 3
    assert not any(name.startswith(("codes-", "shard-", "manifest")) for name in files(path))


def test_fresh_keeps_what_is_not_the_stores(tmp_path):
    path = write(tmp_path / "codes")
    (path / "notes.txt").write_text("mine")
    assert len(StoreWriter(path, HEAD).prepare(fresh=True)) == 5
    assert set(files(path)) == {"job.json", "notes.txt"}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_directory_that_is_not_a_store_is_never_touched(tmp_path, fresh):
    path = tmp_path / "images"
    path.mkdir()
    (path / "manifest.json").write_text('{"name": "a web page"}')
    (path / "codes-00000.npy").write_bytes(b"somebody's")
    before = files(path)
    with pytest.raises(AlitokError, match="manifest.json" if not fresh else "is not of format 3"):
        StoreWriter(path, HEAD).prepare(fresh)
    (path / "manifest.json").unlink()
    with pytest.raises(AlitokError, match="is not empty and is not a code store"):
        StoreWriter(path, HEAD).prepare(fresh)
    with pytest.raises(AlitokError, match="is a file"):
        StoreWriter(path / "codes-00000.npy", HEAD).prepare(fresh)
    assert {**files(path), "manifest.json": before["manifest.json"]} == before


def test_a_store_of_the_format_before_is_refused_and_can_be_replaced(tmp_path):
    path = tmp_path / "codes"
    path.mkdir()
    (path / "manifest.json").write_text('{"format": 1, "codebook_size": 500}')
    for name in ("codes-00000.npy", "labels-00000.npy"):
        (path / name).write_bytes(b"old")
    for attempt in (lambda: CodeStore(path), StoreWriter(path, HEAD).prepare):
        with pytest.raises(AlitokError, match=r"not of format 3, but of another version.*encode the images again"):
            attempt()
    assert len(StoreWriter(path, HEAD).prepare(fresh=True)) == 5
    assert files(write(path)) == files(write(tmp_path / "whole"))
