"""A source to a store: whoever encodes, in whatever order, however often it is broken off, the files are the same."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.codes import CodeStore
from alitok.data.sources.decoded import JoinedSource
from alitok.data.sources.opening import open_splits
from alitok.data.split import joined
from alitok.recipes.presets import RECIPES
from alitok.run.encode import Origin, encode_store
from alitok.tokenizer import Tokenizer

WORLD = World(torch.device("cpu"))
ORIGIN = Origin("images", "contents", "all", "a/tokenizer")


class Source:
    """View c of image i is filled with i, i and c; what was read is remembered."""

    def __init__(self, length, crops=1, broken=None):
        self.name, self.classes, self.size, self.flip, self.groups = "test", ("a", "b", "c"), 2, False, None
        self.labels = np.arange(length, dtype=np.int64) % 3
        self.crops, self.broken, self.read_before = crops, broken, []

    def __len__(self):
        return len(self.labels)

    def key(self, index):
        return f"{'abc'[index % 3]}/{index}.png"

    def views(self, index, recipe):
        if index == self.broken:
            raise AlitokError("b/7.png is broken; replace or remove it.")
        self.read_before.append(index)
        views = np.empty((self.crops, 3, 2, 2), np.uint8)
        views[:, 0], views[:, 1], views[:, 2] = index >> 8, index & 255, np.arange(self.crops)[:, None, None]
        return views


class Codes:
    """Stands for a tokenizer: the codes of a view are its image's number, its own number, and the same for all."""

    config = SimpleNamespace(sequence_length=3, codebook_size=60_000)

    def __init__(self, stop_before=None):
        self.batches, self.stop_before = [], stop_before

    def codes_fingerprint(self):
        return "print"

    def encode(self, images):
        pixels = (images[:, :, 0, 0] * 255).round().long()
        rows = torch.stack([pixels[:, 0] * 256 + pixels[:, 1], pixels[:, 2], torch.full((len(images),), 59_999)], 1)
        if self.stop_before is not None and (rows[:, 0] >= self.stop_before).any():
            raise KeyboardInterrupt
        self.batches.append(rows[:, :2].tolist())
        return rows


CROPS = {1: "centre", 2: "flip", 5: "ten", 10: "ten"}


def encode(source, out, tokenizer=None, **options):
    settings = {"recipe": CROPS[source.crops], "origin": ORIGIN, "world": WORLD, "images_per_shard": 5, **options}
    return encode_store(tokenizer or Codes(), source, out, **settings)


def files(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def plain(path):
    """The rows of a store, read by numpy alone."""
    return np.concatenate([np.load(file) for file in sorted(path.glob("codes-*.npy"))])


def expected(source):
    images, crops = len(source), source.crops
    return np.stack(
        [np.repeat(np.arange(images), crops), np.tile(np.arange(crops), images), np.full(images * crops, 59_999)],
        axis=1,
    )


@settings(max_examples=15, deadline=None)
@given(
    length=st.integers(1, 60),
    crops=st.sampled_from([1, 2, 5, 10]),
    shard=st.integers(1, 20),
    batch_size=st.integers(1, 40),
    data=st.data(),
)
def test_every_crop_of_every_image_once_and_in_order(tmp_path_factory, length, crops, shard, batch_size, data):
    """Whatever the sizes, and however many independent jobs come in whatever order, some broken off and come again."""
    root, source = tmp_path_factory.mktemp("encode"), Source(length, crops)
    options = {"images_per_shard": min(shard, length), "batch_size": batch_size}
    done = encode(source, root / "one", **options)
    assert (done.whole, done.made) == (True, done.head.shards)
    assert np.array_equal(plain(root / "one"), expected(source))
    store = CodeStore(root / "one", "print")
    assert [store.key(image) for image in range(length)] == [source.key(image) for image in range(length)]
    assert np.array_equal(store.image_labels, source.labels)
    assert store.crops == crops

    jobs = data.draw(st.integers(1, 4), "jobs")
    for job in data.draw(st.permutations(range(jobs)), "order"):
        for stop in (data.draw(st.integers(0, length), "stop"), None):
            try:
                encode(source, root / "many", Codes(stop_before=stop), part=(job, jobs), **options)
            except KeyboardInterrupt:
                assert not list((root / "many").glob(".*.part"))
    assert files(root / "many") == files(root / "one")


@pytest.mark.parametrize(("crops", "batch_size", "sizes"), [(1, 4, {4, 1, 3}), (2, 5, {4, 2}), (10, 7, {7, 3})])
def test_what_is_encoded_together_depends_on_nobody(tmp_path, crops, batch_size, sizes):
    """A batch never reaches over the edge of a shard, whoever makes the shard."""
    batches = {}
    for jobs in (1, 3):
        tokenizers = [Codes() for _ in range(jobs)]
        for job, tokenizer in enumerate(tokenizers):
            encode(Source(23, crops), tmp_path / str(jobs), tokenizer, part=(job, jobs), batch_size=batch_size)
        batches[jobs] = sorted(batch for tokenizer in tokenizers for batch in tokenizer.batches)
    assert batches[1] == batches[3]
    assert {len(batch) for batch in batches[1]} == sizes
    assert all(len({image // 5 for image, _ in batch}) == 1 for batch in batches[1])


def test_two_processes_of_one_run_make_the_store_of_one(tmp_path, together):
    encode(Source(48, 2), tmp_path / "one")
    made = together(lambda world: encode(Source(48, 2), tmp_path / "two", world=world))
    assert [(done.made, done.whole) for done in made] == [(10, True)] * 2
    assert files(tmp_path / "two") == files(tmp_path / "one")
    # Independent jobs of two processes each.
    for job in (1, 0):
        made = together(lambda world, job=job: encode(Source(48, 2), tmp_path / "four", world=world, part=(job, 2)))
        assert [(done.made, done.whole) for done in made] == [(5, job == 0)] * 2
    assert files(tmp_path / "four") == files(tmp_path / "one")


def test_a_failure_before_the_first_shard_ends_all_processes(tmp_path, together):
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "mine.txt").touch()

    def refused(world):
        with pytest.raises(AlitokError) as caught:
            encode(Source(9), tmp_path / "codes", world=world)
        return str(caught.value)

    first, second = together(refused)
    assert "is not empty" in first
    assert "Rank 0" in second


@pytest.mark.parametrize("workers", [1, 2])
def test_readers_ahead_change_nothing(tmp_path, workers):
    encode(Source(23, 2), tmp_path / "none", batch_size=4)
    state = torch.get_rng_state()
    encode(Source(23, 2), tmp_path / "some", batch_size=4, workers=workers)
    assert torch.equal(torch.get_rng_state(), state)
    assert files(tmp_path / "none") == files(tmp_path / "some")


def test_finished_shards_are_neither_read_nor_written_again(tmp_path):
    encode(Source(23), tmp_path / "whole", batch_size=2)
    out = tmp_path / "codes"
    with pytest.raises(KeyboardInterrupt):
        encode(Source(23), out, Codes(stop_before=11), batch_size=2)
    kept = {name: (out / name).stat() for name in files(out) if "-0000" in name}
    assert {name for name in kept if name.startswith("shard-")} == {"shard-00000.json", "shard-00001.json"}
    again = Source(23)
    done = encode(again, out, batch_size=2)
    assert (done.made, done.whole) == (3, True)
    assert sorted(set(again.read_before)) == [0, *range(10, 23)]  # the first one to learn how many views there are
    for name, before in kept.items():
        if not name.startswith("shard-"):
            after = (out / name).stat()
            assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files(out) == files(tmp_path / "whole")
    once_more = Source(23)
    assert encode(once_more, out, batch_size=2).made == 0
    assert once_more.read_before == [0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_and_finished_shards_stay(tmp_path, workers):
    with pytest.raises(AlitokError, match=r"^b/7\.png is broken; replace or remove it\.$"):
        encode(Source(23, broken=7), tmp_path / "codes", workers=workers)
    assert {name for name in files(tmp_path / "codes") if name.startswith("shard-")} == {"shard-00000.json"}
    assert encode(Source(23), tmp_path / "codes").made == 4


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(AlitokError, match="nothing to encode"):
        encode(Source(0), tmp_path / "codes")
    assert not (tmp_path / "codes").exists()


def test_other_images_or_another_batch_size_are_refused(tmp_path):
    encode(Source(23), tmp_path / "codes")
    for source, options, words in (
        (Source(24), {}, "images"),
        (Source(23, 2), {}, "crops"),
        (Source(23), {"batch_size": 8}, "batch size"),
        (Source(23), {"origin": Origin("others", "contents", "all")}, "data"),
        (Source(23), {"origin": Origin("images", "changed", "all")}, "contents of the data"),
    ):
        with pytest.raises(AlitokError, match=rf"conflicting settings \({words}\)"):
            encode(source, tmp_path / "codes", **options)
    renamed = Source(23)
    renamed.key = lambda index: f"{index}.png"
    with pytest.raises(AlitokError, match=r"conflicting settings \(images\)"):
        encode(renamed, tmp_path / "codes")
    assert encode(renamed, tmp_path / "codes", fresh=True).whole
    assert CodeStore(tmp_path / "codes").key(1) == "1.png"


def test_progress_counts_the_images_of_this_process(tmp_path):
    told = []
    encode(Source(23, 2), tmp_path / "codes", part=(0, 2), batch_size=8, progress=lambda *now: told.append(now))
    assert told == [(4, 13), (5, 13), (9, 13), (10, 13), (13, 13)]


CONFIG = replace(RECIPES["digits"].tokenizer, codebook_size=40, code_width=4, stage2=None)


def folder(root, count=24):
    for number in range(count):
        path = root / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (19, 22, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return open_splits(str(root), 16)


@pytest.mark.parametrize(("recipe", "crops"), [("centre", 1), ("flip", 2), ("ten", 10)])
def test_a_row_is_the_codes_of_its_own_view(tmp_path, recipe, crops):
    splits, tokenizer = folder(tmp_path / "images"), Tokenizer(CONFIG).eval()
    source = joined(splits, recipe)
    with torch.no_grad():  # codes of random weights are all alike: the codebook is made of features
        images = np.stack([source.read(index, None) for index in range(24)])
        features = tokenizer.encoder(torch.from_numpy(images).float() / 255)
        tokenizer.quantizer.codebook.copy_(features.flatten(0, 1)[::12][:40])
    encode_store(tokenizer, source, tmp_path / "codes", recipe=recipe, origin=ORIGIN, world=WORLD, images_per_shard=7)
    store = CodeStore(tmp_path / "codes", tokenizer.codes_fingerprint())
    assert store.crops == crops
    for image in range(24):
        behind = image >= len(splits.train)
        origin = splits.val if behind else splits.train
        place = image - len(splits.train) * behind
        views = torch.from_numpy(origin.views(place, recipe)).float() / 255
        with torch.no_grad():
            codes = tokenizer.encode(views).numpy()
        rows = range(image * crops, (image + 1) * crops)
        assert (store.codes(rows) == codes).mean() > 0.99  # a batch of another size may round a feature differently
        assert store.key(image) == origin.key(place)
        assert store.classes[store.image_labels[image]] == Path(store.key(image)).parent.name
    assert len(np.unique(store.codes(range(len(store))), axis=0)) > len(store) // 2


def test_a_joined_source_is_both_sources(tmp_path):
    splits = folder(tmp_path)
    both = JoinedSource("both", splits.train, splits.val)
    assert len(both) == len(splits) == 24
    keys = [source.key(index) for source in (splits.train, splits.val) for index in range(len(source))]
    assert [both.key(index) for index in range(24)] == keys
    last = len(splits.val) - 1
    assert np.array_equal(both.views(23, "ten"), splits.val.views(last, "ten"))
    draw, again = (np.random.default_rng(0) for _ in range(2))
    assert np.array_equal(both.read(23, draw), splits.val.read(last, again))
    told = []
    assert both.verify(told.append) == []
    assert told[-1] == 24
    rest = both.without({keys[0], keys[-1]})
    assert [rest.key(index) for index in range(22)] == keys[1:-1]


def test_photographs_have_their_own_recipe_for_each_split():
    pytest.importorskip("skimage")
    splits = open_splits("photos", 16)
    assert len(joined(splits, "centre")) == len(splits)
    with pytest.raises(AlitokError, match="10 views of each training image of photos and 1 of each val"):
        joined(splits, "ten")


def test_crops_of_photographs_are_named_by_number(tmp_path):
    pytest.importorskip("skimage")

    photos = open_splits("photos", 16).train
    photos.labels = photos.labels[:4]
    encode_store(Tokenizer(CONFIG).eval(), photos, tmp_path / "codes", recipe="ten", origin=ORIGIN, world=WORLD)
    store = CodeStore(tmp_path / "codes")
    assert (store.crop_name(0), store.crop_name(19)) == ("place 1", "place 5, mirrored")
    manifest = json.loads((tmp_path / "codes" / "manifest.json").read_text())
    assert (manifest["recipe"], manifest["image_size"], manifest["split"]) == ("ten", 16, "all")
