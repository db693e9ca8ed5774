"""Items of a data set read ahead by processes of their own, in the order asked for.

Enters: a data set whose items are whole batches, or the errors that stand for them, and the numbers of the items.
Leaves: the items.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from alitok.core.errors import AlitokError

Item = TypeVar("Item")
Flag = ctypes.c_byte  # in memory that parent and workers share


def read_ahead(items: Dataset[Item | AlitokError], numbers: Iterable[int], workers: int) -> Generator[Item, None, None]:
    """The items `numbers`, in that order.

    Args:
        items: gives an item by its number. An error is given as an item: raised in a worker, it would reach the user
            wrapped in the worker's traceback.
        numbers: which; may be endless.
        workers: processes; with none, an item is read when it is wanted.

    Raises:
        AlitokError: while iterating, the error that stands for an item.
    """
    results = _from_workers(items, numbers, workers) if workers else map(items.__getitem__, numbers)
    try:
        for result in results:
            if isinstance(result, AlitokError):
                raise result
            yield result
    finally:
        del results  # ends the workers now, even while a traceback keeps this frame


def _from_workers(
    items: Dataset[Item | AlitokError], numbers: Iterable[int], workers: int
) -> Iterator[Item | AlitokError]:
    ending: Flag = multiprocessing.RawValue(Flag, 0)
    atexit.register(_raise_flag, ending)  # exit functions run last in first out: before the wait for workers
    loader = DataLoader(
        items,
        batch_size=None,  # an item is a whole batch already
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_serve_the_parent, ending),
        generator=torch.Generator(),  # else making the iterator would draw from the global one
    )
    return iter(loader)


def _as_it_is(item: Any) -> Any:
    return item


def _serve_the_parent(ending: Flag, worker: int) -> None:
    _leave_signals_to_the_parent(ending)
    sys.excepthook = _say_unless_the_parent_left


def _say_unless_the_parent_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A parent that ends while it fetches an item breaks the connection of the thread that hands it over."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)


def _leave_signals_to_the_parent(ending: Flag) -> None:
    """Ctrl-C and SIGTERM reach all processes of a run; the parent decides when its workers end.

    A parent that exits without having closed its items sends SIGTERM and waits for the worker to be gone. Only this
    one is obeyed, which is told by `ending`.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        if ending.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)


def _raise_flag(flag: Flag) -> None:
    flag.value = 1
