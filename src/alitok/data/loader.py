"""Batches as a pure function of (seed, step), so that a run resumes where it stopped without stored state.

Position p = step * B + i of the endless stream is image order(N, seed, p // N, groups)[p % N]: a batch may span two
epochs, and no image is dropped there. Of W ranks, rank r takes i from r * B / W to (r + 1) * B / W.
B images of a batch over all W ranks, N images of an epoch, T codes of a sequence.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import count
from types import FrameType, TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from alitok.core.errors import AlitokError
from alitok.data.codes import CodeStore
from alitok.data.sources.decoded import ImageSource

Batch = tuple[torch.Tensor, torch.Tensor]
Item = TypeVar("Item")
Flag = ctypes.c_byte  # in memory that parent and workers share

# uses of randomness, each with its own streams
_IMAGE, _ORDER, _CROP = 0, 1, 2
_WINDOW = 16  # groups whose images are mixed; shards of a gigabyte each fit the cache of fetched shards


def image_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The randomness of one image in one epoch, independent of the batch, the step and the worker."""
    return _stream(seed, epoch, index, _IMAGE)


def order(length: int, seed: int, epoch: int, groups: np.ndarray | None = None) -> np.ndarray:
    """The order (length,) int64 of the images of an epoch.

    With `groups` (length,), such as shards that are fetched whole, the groups are shuffled and then the images of
    _WINDOW groups at a time, so that few groups are needed at once.
    """
    draw = _stream(seed, epoch, 0, _ORDER)
    if groups is None:
        return draw.permutation(length)
    distinct, group_of = np.unique(groups, return_inverse=True)
    window = draw.permutation(len(distinct))[group_of] // _WINDOW
    return np.lexsort((draw.permutation(length), window))


def _stream(seed: int, epoch: int, index: int, use: int) -> np.random.Generator:
    """Philox is keyed, not seeded: no hashing, and the high words of its counter keep the streams apart."""
    key = np.array([seed % 2**64, epoch], np.uint64)
    counter = np.array([0, 0, index, use], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class _PerEpoch:
    """A table of one number per image and epoch; caches the last epoch."""

    def __init__(self, make: Callable[[int], np.ndarray]) -> None:
        self._make, self._epoch = make, -1
        self._table = np.empty(0, np.int64)

    def at(self, epochs: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Entry `columns[i]` of the table of `epochs[i]`; both (B,), epochs ascending."""
        result = np.empty(len(columns), np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            if epoch != self._epoch:
                self._epoch, self._table = epoch, self._make(epoch)
            here = epochs == epoch
            result[here] = self._table[columns[here]]
        return result


class _Positions:
    """The image and epoch at each position of one rank's part of a batch."""

    def __init__(
        self, length: int, batch_size: int, seed: int, part: tuple[int, int], groups: np.ndarray | None = None
    ) -> None:
        rank, world_size = part
        assert min(length, batch_size) > 0
        assert 0 <= rank < world_size
        if batch_size % world_size:
            raise AlitokError(
                f"batch_size {batch_size} is not divisible by {world_size} processes; choose a multiple of that."
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self._size = batch_size // world_size
        self._first = rank * self._size
        # picklable, for spawned workers
        self._order = _PerEpoch(partial(order, length, seed, groups=groups))

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Epochs and image indices of a step, both (B / W,) int64."""
        positions = np.arange(self._size) + (step * self.batch_size + self._first)
        epochs, offsets = np.divmod(positions, self.length)
        return epochs, self._order.at(epochs, offsets)


class Batches(Dataset[Batch | AlitokError]):
    """Endless batches of randomly cropped images (B, 3, size, size) uint8 and labels (B,) int64.

    Args:
        batch_size: B over all ranks; it may exceed the number of images.
        start_step: of the first batch; starting at k equals skipping k batches.
        workers: processes that read ahead; the batches do not depend on their number.
        part: rank and world size; each rank gets a contiguous part of B / W images.

    Raises:
        AlitokError: the batch is not divisible by the world size, or, while iterating, an image cannot be read.
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        workers: int = 0,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._source, self._start_step, self._workers = source, start_step, workers
        self._positions = _Positions(len(source), batch_size, seed, part, source.groups)

    def __iter__(self) -> Iterator[Batch]:
        return read_ahead(self, count(self._start_step), self._workers)

    def __getitem__(self, step: int) -> Batch | AlitokError:
        """The batch of a step, or the error that reading it raised; see `read_ahead`."""
        epochs, indices = self._positions.at(step)
        seed = self._positions.seed
        try:
            images = [
                self._source.read(index, image_rng(seed, epoch, index))
                for epoch, index in zip(epochs.tolist(), indices.tolist(), strict=True)
            ]
        except AlitokError as error:
            return error
        return torch.from_numpy(np.stack(images)), torch.from_numpy(self._source.labels[indices])


class CodeBatches:
    """Endless batches of codes (B, T) int64 and labels (B,) int64; order and arguments as in `Batches`.

    Of a store with several crops per image, each epoch draws one crop per image by the seed.

    Raises:
        AlitokError: the batch is not divisible by the world size.
    """

    def __init__(
        self, store: CodeStore, batch_size: int, seed: int, start_step: int = 0, *, part: tuple[int, int] = (0, 1)
    ) -> None:
        self._store, self._start_step = store, start_step
        self._positions = _Positions(store.images, batch_size, seed, part)
        # the crops of an epoch are drawn at once, as a stream per image is too slow
        self._crop = _PerEpoch(lambda epoch: _stream(seed, epoch, 0, _CROP).integers(store.crops, size=store.images))

    def __iter__(self) -> Iterator[Batch]:
        store = self._store
        for step in count(self._start_step):
            epochs, images = self._positions.at(step)
            rows = images * store.crops + self._crop.at(epochs, images) if store.crops > 1 else images
            labels = store.image_labels[images].astype(np.int64)
            yield torch.from_numpy(store.codes(rows).astype(np.int64)), torch.from_numpy(labels)


def read_ahead(items: Dataset[Item | AlitokError], numbers: Iterable[int], workers: int) -> Generator[Item, None, None]:
    """The items `numbers`, which may be endless, in that order, read ahead by `workers` processes; 0 = when needed.

    An item that is an AlitokError is raised here: raised in a worker, it would come wrapped in the worker's traceback.
    """
    results: Iterator[Item | AlitokError] = map(items.__getitem__, numbers)
    if workers:
        ending: Flag = multiprocessing.RawValue(Flag, 0)
        atexit.register(setattr, ending, "value", 1)  # exit functions run in reverse: before the wait for workers
        results = iter(
            DataLoader(
                items,
                batch_size=None,  # an item is a whole batch already
                sampler=numbers,
                num_workers=workers,
                collate_fn=_as_it_is,
                worker_init_fn=partial(_init_worker, ending),
                generator=torch.Generator(),  # else the iterator would draw from the global one
            )
        )
    try:
        for result in results:
            if isinstance(result, AlitokError):
                raise result
            yield result
    finally:
        del results  # ends the workers now, even while a traceback keeps this frame


def _as_it_is(item: Any) -> Any:
    return item


def _init_worker(ending: Flag, worker: int) -> None:
    """The parent decides when its workers end, as Ctrl-C and SIGTERM reach all processes of a run.

    Only the SIGTERM of a parent that exits with items open, and waits for the worker, is obeyed; `ending` marks it.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        if ending.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A parent that ends while it fetches an item breaks the connection of the thread that sends it: not an error."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
