"""Shared by all tests: one compute thread, so that parallel runs do not fight; a seed; stores; several processes."""

import multiprocessing
import os
import socket
import traceback

import pytest
import torch

from alitok.core.distributed import join
from alitok.data.shards import StoreHead, StoreWriter

torch.set_num_threads(1)  # for fixtures of whole modules too, which are made before those of a test


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def stored():
    """Writes codes (rows, T) and the labels of the rows to a store at a path, which it returns."""
    return _stored


def _stored(path, codes, labels, *, codebook_size, classes, tokenizer="t", crops=1, shard_rows=1 << 15):
    head = StoreHead(
        pictures=len(codes) // crops,
        length=codes.shape[1],
        codebook_size=codebook_size,
        recipe="",
        crops=tuple(f"crop {number}" for number in range(crops)),
        classes=tuple(classes),
        tokenizer=tokenizer,
        shard_pictures=max(1, shard_rows // crops),
    )
    writer = StoreWriter(path, head)
    for number in writer.prepare():
        pictures = head.shard(number)
        rows = slice(pictures.start * crops, pictures.stop * crops)
        writer.write(number, codes[rows], labels[rows][::crops], [str(picture) for picture in pictures])
    assert writer.finish()
    return path


@pytest.fixture
def together():
    """Calls `work(world)` in several processes that know of one another; returns what each gave, by rank."""
    return _together


def _together(work, size=2):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_member, args=(work, rank, size, port, results)) for rank in range(size)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    failures = [text for ok, text in found.values() if not ok]
    assert not failures, "\n".join(failures)
    return [found[rank][1] for rank in range(size)]


def _member(work, rank, size, port, results):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    torch.set_num_threads(1)
    try:
        with join("cpu") as world:
            results.put((rank, (True, work(world))))
    except BaseException:
        results.put((rank, (False, traceback.format_exc())))
