"""Shared by all tests: one compute thread, so that parallel runs do not fight; a seed; several processes at once."""

import multiprocessing
import os
import socket
import traceback

import pytest
import torch

from alitok.core.distributed import join


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


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
