import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from itertools import islice
from multiprocessing import current_process, resource_sharer
from multiprocessing.connection import Client

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.data.codes import CodeStore
from alitok.data.loader import Batches, CodeBatches, image_rng, order, read_ahead

GOLDEN = [2, 9, 6, 0, 4, 5, 8, 1, 3, 7]  # order(10, 3, 2): stored codes and runs rely on it


class Source:
    """Each image holds its index and, in training, two draws of its own randomness."""

    def __init__(self, length, broken=None, groups=None):
        self.name, self.classes, self.size, self.flip = "test", ("a", "b", "c"), 4, True
        self.groups = groups
        self.labels = np.arange(length, dtype=np.int64) % 3
        self.broken = broken

    def __len__(self):
        return len(self.labels)

    def read(self, index, rng):
        if index == self.broken:
            raise AlitokError("image.png is broken.")
        image = np.zeros((3, 4, 4), np.uint8)
        image[0] = index
        image[1:] = rng.integers(0, 256, (2, 4, 4))
        return image


def first(batches, count):
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


def same(left, right):
    assert len(left) == len(right) > 0
    return all(torch.equal(x, y) for a, b in zip(left, right, strict=True) for x, y in zip(a, b, strict=True))


def indices(batches):
    return torch.cat([images[:, 0, 0, 0] for images, _ in batches]).tolist()


def test_order_is_a_permutation_keyed_by_seed_and_epoch():
    orders = {}
    for seed in (-1, 0, 1):
        for epoch in (0, 1):
            taken = order(100, seed, epoch)
            assert sorted(taken.tolist()) == list(range(100))
            assert (taken == order(100, seed, epoch)).all()
            orders[taken.tobytes()] = None
    assert len(orders) == 6


def test_the_order_without_groups_is_the_one_of_earlier_versions():
    assert order(10, 3, 2).tolist() == GOLDEN
    assert order(10, 3, 2, None).tolist() == GOLDEN


def shards_of(rng, shards, most=12):
    """Shard numbers that are neither dense nor of one size, in the order of the shards."""
    names = np.sort(rng.choice(10_000, shards, replace=False))
    return np.repeat(names, rng.integers(1, most, shards)).astype(np.int32)


@pytest.mark.parametrize("shards", [1, 2, 16, 17, 50])
def test_an_epoch_in_groups_visits_each_image_once_and_few_groups_at_a_time(shards):
    groups = shards_of(np.random.default_rng(shards), shards)
    orders = [order(len(groups), 5, epoch, groups) for epoch in range(3)]
    windows = []
    for taken in orders:
        assert sorted(taken.tolist()) == list(range(len(groups)))
        visits = groups[taken]
        whole, rest = divmod(shards, 16)
        opened, start, window = [], 0, []
        while start < len(visits):  # a window ends where all images of its 16 groups, or of the last ones, are taken
            members = set()
            end = start
            while end < len(visits) and (len(members) < 16 or visits[end] in members):
                members.add(int(visits[end]))
                end += 1
            assert sum(np.isin(groups, list(members))) == end - start
            opened.append(len(members))
            window.append(frozenset(members))
            start = end
        assert opened == [16] * whole + [rest] * (rest > 0)
        windows.append(window)
    assert (orders[0] == order(len(groups), 5, 0, groups)).all()
    assert shards < 3 or any((orders[0] != taken).any() for taken in (orders[1], order(len(groups), 6, 0, groups)))
    assert shards <= 16 or windows[0] != windows[1]  # which groups share a window changes too


def test_within_a_window_all_places_are_alike():
    groups = np.repeat([0, 1, 2], [4, 2, 6])
    places = np.array([np.argsort(order(12, 0, epoch, groups)) for epoch in range(3000)])
    assert np.abs(places.mean(axis=0) - 5.5).max() < 0.3
    assert np.abs(np.corrcoef(places.T)[~np.eye(12, dtype=bool)] + 1 / 11).max() < 0.08


def test_batches_of_grouped_images_follow_the_formula_and_resume(tmp_path):
    source = Source(40, groups=np.repeat(np.arange(20), 2))
    batches = first(Batches(source, 7, 3), 12)
    expected = np.concatenate([order(40, 3, epoch, source.groups) for epoch in range(3)])[: 7 * 12]
    assert indices(batches) == expected.tolist()
    assert same(first(Batches(source, 7, 3, 5), 7), batches[5:])
    steps = pickle.loads(pickle.dumps(Batches(source, 7, 3)))
    assert same([steps[8]], [batches[8]])


def test_image_rng_is_keyed_by_all_three():
    keys = [(s, e, i) for s in (-1, 0, 1, 2) for e in (0, 1, 2) for i in (0, 1, 2)]
    draws = {image_rng(*key).bytes(16) for key in keys}
    assert len(draws) == len(keys)
    assert image_rng(1, 2, 0).bytes(16) == image_rng(1, 2, 0).bytes(16)


def test_neighbouring_images_draw_independently():
    draws = np.stack([image_rng(0, 0, index).random(400) for index in range(40)])
    off_diagonal = np.corrcoef(draws)[~np.eye(40, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.25
    assert abs(draws[:, 0].mean() - 0.5) < 0.15


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (10, 10), (3, 8), (7, 23), (1, 5)])
def test_batches_follow_the_formula_and_drop_nothing(length, batch_size):
    source, seed = Source(length), 5
    batches = first(Batches(source, batch_size, seed), 6)
    for step, (images, labels) in enumerate(batches):
        assert (images.shape, images.dtype) == ((batch_size, 3, 4, 4), torch.uint8)
        assert (labels.shape, labels.dtype) == ((batch_size,), torch.int64)
        for i in range(batch_size):
            epoch, offset = divmod(step * batch_size + i, length)
            index = int(order(length, seed, epoch)[offset])
            expected = source.read(index, image_rng(seed, epoch, index))
            assert (images[i].numpy() == expected).all()
            assert labels[i] == source.labels[index]
    seen = indices(batches)
    for start in range(0, len(seen) - length + 1, length):
        assert sorted(seen[start : start + length]) == list(range(length))


@pytest.mark.parametrize("start", [1, 4, 9])
def test_starting_at_a_step_equals_skipping_the_batches_before(start):
    source = Source(11)
    assert same(first(Batches(source, 4, 0, start), 5), first(Batches(source, 4, 0), start + 5)[start:])


def test_iterating_twice_begins_twice():
    batches = Batches(Source(11), 4, 0, 2)
    assert same(first(batches, 3), first(batches, 3))


def test_the_seed_matters():
    source = Source(50)
    assert indices(first(Batches(source, 10, 0), 2)) != indices(first(Batches(source, 10, 1), 2))


def test_workers_change_neither_batches_nor_global_randomness():
    source = Source(11)
    expected = first(Batches(source, 4, 0, start_step=3), 7)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 the global one is meant
    iterator = iter(Batches(source, 4, 0, start_step=3, workers=2))
    got = list(islice(iterator, 7))
    iterator.close()
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert same(got, expected)
    assert all(isinstance(batch, tuple) for batch in got)


def test_without_workers_global_randomness_is_untouched():
    state = torch.get_rng_state()
    first(Batches(Source(5), 2, 0), 4)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_a_one_line_error(workers):
    iterator = iter(Batches(Source(11, broken=4), 4, 0, workers=workers))
    with pytest.raises(AlitokError, match=r"^image\.png is broken\.$"):
        list(islice(iterator, 3))


def test_workers_survive_the_signals_of_a_terminal_and_a_scheduler():
    iterator = iter(Batches(Source(11), 4, 0, workers=1))
    got = [next(iterator)]
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    got += islice(iterator, 5)
    assert worker.is_alive()
    iterator.close()
    assert not worker.is_alive()
    assert same(got, first(Batches(Source(11), 4, 0), 6))


LEAK = """
import sys
from alitok.data.loader import Batches
from alitok.data.sources.builtin import DigitSource
import numpy as np
source = DigitSource("x", ("a",), np.zeros(5, np.int64), 8, np.zeros((5, 8, 8), np.uint8))
iterator = iter(Batches(source, 2, 0, workers=1))
next(iterator)
sys.stdout.write("read")
"""


@pytest.mark.slow
def test_a_program_that_never_closes_its_batches_still_ends():
    ended = subprocess.run([sys.executable, "-c", LEAK], capture_output=True, timeout=60, check=True)
    assert ended.stdout == b"read"


def test_the_work_of_a_worker_can_be_pickled():
    steps = pickle.loads(pickle.dumps(Batches(Source(11), 4, 0)))
    assert same([steps[3]], [Batches(Source(11), 4, 0)[3]])


@pytest.fixture
def store_of(tmp_path, stored):
    """A store of so many images and crops; each row holds its image and its crop."""

    def made(images, crops):
        codes = np.stack([np.repeat(np.arange(images), crops), np.tile(np.arange(crops), images)], axis=1)
        return CodeStore(
            stored(tmp_path / "codes", codes, codes[:, 0] % 3, codebook_size=300, classes="abc", crops=crops)
        )

    return made


@pytest.mark.parametrize("batch_size", [4, 30])
def test_codes_come_in_the_order_of_the_images(store_of, batch_size):
    store = store_of(11, 1)
    codes = first(CodeBatches(store, batch_size, 9), 6)
    images = first(Batches(Source(11), batch_size, 9), 6)
    for (sequence, label), (image, expected) in zip(codes, images, strict=True):
        assert (sequence.dtype, label.dtype) == (torch.int64, torch.int64)
        assert sequence.shape == (batch_size, 2)
        assert torch.equal(sequence[:, 0], image[:, 0, 0, 0].long())
        assert torch.equal(label, expected)


def test_one_random_crop_of_each_image_per_epoch(store_of):
    store = store_of(40, 5)
    epochs = [codes for codes, _ in first(CodeBatches(store, 40, 0), 60)]  # a batch is an epoch
    for codes in epochs:
        assert sorted(codes[:, 0].tolist()) == list(range(40))
    drawn = torch.cat(epochs)
    shares = torch.bincount(drawn[:, 1], minlength=5) / len(drawn)
    assert (shares - 0.2).abs().max() < 0.05
    of_one_image = drawn[drawn[:, 0] == 7, 1]
    assert set(of_one_image.tolist()) == set(range(5))
    # the crop belongs to image and epoch, not to the batch
    small = torch.cat([codes for codes, _ in first(CodeBatches(store, 8, 0), 10)])
    assert torch.equal(small, torch.cat(epochs[:2]))


def test_codes_from_a_later_step(store_of):
    store = store_of(11, 3)
    assert same(first(CodeBatches(store, 4, 0, 5), 4), first(CodeBatches(store, 4, 0), 9)[5:])
    state = torch.get_rng_state()
    first(CodeBatches(store, 4, 0), 2)
    assert torch.equal(torch.get_rng_state(), state)


def joined(parts):
    """Batches of several processes, put together in the order of their ranks."""
    return [tuple(torch.cat(pieces) for pieces in zip(*step, strict=True)) for step in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    ("length", "batch_size", "processes", "start", "workers"),
    [(11, 4, 2, 0, 0), (11, 6, 3, 7, 0), (3, 8, 4, 0, 0), (5, 2, 1, 3, 0), (11, 6, 2, 7, 2)],
)
def test_the_parts_of_all_processes_are_the_batch_of_one(length, batch_size, processes, start, workers):
    source = Source(length)
    parts = []
    for rank in range(processes):
        iterator = iter(Batches(source, batch_size, 3, start, workers, part=(rank, processes)))
        parts.append(list(islice(iterator, 6)))
        iterator.close()
        assert all(len(images) == len(labels) == batch_size // processes for images, labels in parts[-1])
    assert same(joined(parts), first(Batches(source, batch_size, 3, start), 6))


@pytest.mark.parametrize(("batch_size", "processes", "start"), [(4, 2, 0), (12, 3, 5), (30, 6, 1)])
def test_the_parts_of_stored_codes_are_the_batch_of_one_process(store_of, batch_size, processes, start):
    store = store_of(11, 3)
    parts = [first(CodeBatches(store, batch_size, 9, start, part=(rank, processes)), 8) for rank in range(processes)]
    assert all(len(codes) == batch_size // processes for part in parts for codes, _ in part)
    assert same(joined(parts), first(CodeBatches(store, batch_size, 9, start), 8))


def test_a_batch_that_does_not_divide_is_refused(store_of):
    with pytest.raises(AlitokError, match="batch_size 10 is not divisible by 4 processes"):
        Batches(Source(11), 10, 0, part=(0, 4))
    with pytest.raises(AlitokError, match="batch_size 10 is not divisible by 3 processes"):
        CodeBatches(store_of(11, 1), 10, 0, part=(1, 3))


class Squares:
    def __getitem__(self, number):
        if number == 7:
            return AlitokError("item 7 is broken")
        return torch.tensor(number**2)


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_the_requested_order_until_one_is_an_error(workers):
    items = read_ahead(Squares(), [5, 1, 3, 7, 2], workers)
    assert [int(next(items)) for _ in range(3)] == [25, 1, 9]
    with pytest.raises(AlitokError, match="item 7 is broken"):
        next(items)


class BrokenConnections:
    """Each item comes after a client that broke off, as a parent does that ends while it fetches one."""

    def __getitem__(self, number):
        mine = resource_sharer.DupFd(sys.stdout.fileno())
        address, _ = mine._id
        Client(address, authkey=current_process().authkey).close()
        os.close(mine.detach())  # served after the broken one
        if number == 1:
            resource_sharer._resource_sharer._cache.clear()
            theirs = resource_sharer.DupFd(sys.stdout.fileno())
            resource_sharer._resource_sharer._cache.clear()
            with pytest.raises(EOFError):
                theirs.detach()  # a KeyError in the thread, which is no leaving parent
        return number


def test_a_parent_that_leaves_while_it_fetches_an_item_causes_no_traceback(capfd):
    assert list(read_ahead(BrokenConnections(), [0], 1)) == [0]
    assert capfd.readouterr().err == ""
    assert list(read_ahead(BrokenConnections(), [1], 1)) == [1]
    assert "KeyError" in capfd.readouterr().err
