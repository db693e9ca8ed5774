"""Images of many requests through one engine: one thread owns the models, and all requests share its batches.

Enter: `SampleRequest`s and short pieces of other work, from coroutines. Leave: rows and images as they are drawn, in
the coroutines' event loop. A batch is formed between batches from all that waits; requests take turns in it, so one of
many images does not hold up one of few. Other work is done between batches and between the rows of one.

An image's codes are a function of its own request, and its pixels are decoded in groups of one size, so neither
depends on what else is in the batch.

A request takes its places once, before anything is done for it, and keeps them until it uses them: what has begun is
finished, though the queue is full by now or the service stops.

Shapes: B images, T codes, G rows of patches, f patch side, h image side.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from alitok.apps.serve.even import EvenDecoder
from alitok.apps.serve.faults import internal, queue_full, stopping
from alitok.apps.serve.waiting import Call, Drawing, Finished, Image, Row
from alitok.core import images as pixels
from alitok.sampling import SampleRequest
from alitok.sampling.engine import Engine
from alitok.tokenizer import RowDecoder, Tokenizer

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
# How long those who were in the last batch are waited for, as a share of its time: clients need some milliseconds to
# come back whatever a batch takes, so it is more of a short one, up to so many seconds, than of a long one.
_GATHER_SHARE, _GATHER_MOST, _GATHER_SHARE_LONG = 0.1, 0.1, 0.02
_LONGEST_RETRY = 60  # seconds


class Places:
    """Room for the work of one request; made by `Batcher.places`, and given back at the end of its context.

    Args:
        batcher: whose queue it is.
        count: of images and calls.
    """

    def __init__(self, batcher: Batcher, count: int) -> None:
        self._batcher, self.left = batcher, count

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        self._batcher._give_back(self, self.left)

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run a short function in the thread that owns the models; its place is kept.

        Raises:
            ServiceError: it failed, or the thread has ended.
        """
        return await self._batcher._call(function)

    async def calls(self, functions: Iterable[Callable[[], Result]]) -> list[Result]:
        """Run one function after the other, each of which gives a place back; others may come between them.

        Raises:
            ServiceError: one of them failed, or the thread has ended.
        """
        results = []
        for function in functions:
            results.append(await self._batcher._call(function))
            self._batcher._give_back(self, 1)
        return results

    def submit(self, requests: Sequence[SampleRequest], *, rows: bool = False) -> Drawing:
        """Queue as many images as there are places; called in an event loop, where the events will be.

        Args:
            requests: that fit the generator, one per image.
            rows: whether strips are wanted too.
        """
        assert len(requests) == self.left
        return self._batcher._submit(self, Drawing(requests, rows, asyncio.get_running_loop()))


class Batcher:
    """The queue in front of the engine, and the thread behind it.

    Args:
        engine: of the generator.
        tokenizer: draws rows, where its first decoder is causal.
        decoder: of the tokenizer.
        batch_size: images drawn at a time.
        most_waiting: images and calls that may wait.
        on_batch: told the images and the seconds of each finished batch, in the worker's thread.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        decoder: EvenDecoder,
        *,
        batch_size: int,
        most_waiting: int,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self._engine, self._tokenizer, self._decoder = engine, tokenizer, decoder
        self.batch_size, self.most_waiting, self._on_batch = batch_size, most_waiting, on_batch
        self._changed = threading.Condition()
        self._drawings: deque[Drawing] = deque()  # that have images waiting
        self._calls: deque[Call] = deque()
        self._kept = 0  # places that were taken and are not used yet; those of calls among them
        self._open, self._abandoned, self._ended = True, False, False
        self._running = 0
        self._expected, self._until, self._seconds_each = 0, 0.0, 0.0  # the first two: see `_gather`
        self._threads = torch.get_num_threads()
        # A daemon, so that a second Ctrl-C ends the process at once.
        self._thread = threading.Thread(target=self._work, name="alitok-batcher", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def accepting(self) -> bool:
        """Whether new work is taken."""
        return self._open

    @property
    def waiting(self) -> int:
        """Images and calls that wait, those among them that are still to come for requests that have their places."""
        with self._changed:
            return self._waiting()

    @property
    def running(self) -> int:
        """Images in the batch under way."""
        return self._running

    def stop_accepting(self) -> None:
        """Refuse new work; what was accepted is finished. Needs no lock, so a signal handler may call it."""
        self._open = False

    def close(self, patience: float | None = None) -> None:
        """Finish what was accepted, and end the thread.

        Args:
            patience: seconds after which the batch under way is left between two of its rows; None = never.
        """
        self.stop_accepting()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is None:
            return
        self._thread.join(patience)
        self._abandoned = True
        with self._changed:
            self._changed.notify_all()
        self._thread.join(patience)

    def places(self, count: int) -> Places:
        """Take places for `count` images and calls of one request, to be used as a context.

        Raises:
            ServiceError: there are not so many, or the service is stopping.
        """
        with self._changed:
            if not self._open:
                raise stopping()
            excess = self._waiting() + count - self.most_waiting
            if excess > 0:
                raise queue_full(min(max(1, math.ceil(excess * self._seconds_each)), _LONGEST_RETRY))
            self._kept += count
        return Places(self, count)

    def submit(self, requests: Sequence[SampleRequest], *, rows: bool = False) -> Drawing:
        """Queue the images of one request, as `Places.submit` does.

        Raises:
            ServiceError: there is no place for them all, or the service is stopping.
        """
        with self.places(len(requests)) as places:
            return places.submit(requests, rows=rows)

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run a short function in the thread that owns the models.

        Raises:
            ServiceError: it failed, there is no place for it, or the service is stopping.
        """
        with self.places(1) as places:
            return await places.call(function)

    def cancel(self, drawing: Drawing) -> None:
        """Take back a drawing: what waits is forgotten, and what is being drawn is of no interest. May be repeated."""
        drawing.gone = True
        with self._changed:
            drawing.waiting.clear()
            if drawing in self._drawings:
                self._drawings.remove(drawing)

    def _give_back(self, places: Places, count: int) -> None:
        with self._changed:
            places.left -= count
            self._kept -= count
            self._changed.notify_all()

    def _submit(self, places: Places, drawing: Drawing) -> Drawing:
        with self._changed:
            self._require_work_goes_on()
            self._drawings.append(drawing)
            self._give_back(places, places.left)
        return drawing

    async def _call(self, function: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        call = Call(function, loop.create_future(), loop)
        with self._changed:
            self._require_work_goes_on()
            self._calls.append(call)
            self._changed.notify_all()
        try:
            return await call.future
        finally:
            with self._changed:
                if call in self._calls:
                    self._calls.remove(call)

    def _require_work_goes_on(self) -> None:
        """Refuse what comes after the thread has lost its patience: nobody would ever do it."""
        if self._ended:
            raise stopping()

    def _waiting(self) -> int:
        return self._kept + self._images()

    def _images(self) -> int:
        return sum(len(drawing.waiting) for drawing in self._drawings)

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # it is counted for each thread
        while True:
            with self._changed:
                while not (self._calls or self._drawings):
                    if not self._open and (self._abandoned or not self._kept):
                        self._ended = True
                        return
                    self._changed.wait(1.0)  # nobody wakes it for `stop_accepting`
            self._one_call()
            with self._changed:
                self._gather()
                batch = self._take()
            if batch:
                self._batch(batch)

    def _one_call(self) -> None:
        with self._changed:
            call = self._calls.popleft() if self._calls else None
        if call is not None:
            call.run()

    def _gather(self) -> None:
        """Wait a little after a batch: those who were in it are about to ask again, and join those who waited before.

        Without that, clients who once were in two batches would be drawn in turns for ever, each batch half empty.
        """
        while self._drawings and self._images() < min(self._expected, self.batch_size) and self._open:
            left = self._until - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _take(self) -> list[Image]:
        batch: list[Image] = []
        while self._drawings and len(batch) < self.batch_size:
            drawing = self._drawings.popleft()
            batch.append(drawing.waiting.popleft())
            if drawing.waiting:
                self._drawings.append(drawing)
        return batch

    def _batch(self, batch: list[Image]) -> None:
        began, self._running = time.monotonic(), len(batch)
        try:
            finished = self._draw(batch)
        except Exception:  # whatever it was, those who wait are told, and the next batch is drawn
            _log.exception("A batch failed")
            finished = False
            for drawing in {id(image.drawing): image.drawing for image in batch}.values():
                drawing.tell(internal())
                self.cancel(drawing)
        finally:
            self._running = 0
        if finished:
            ended = time.monotonic()
            seconds = ended - began
            self._until, self._seconds_each = ended + gathering_seconds(seconds), seconds / len(batch)
            self._on_batch(len(batch), seconds)

    @torch.inference_mode()
    def _draw(self, batch: list[Image]) -> bool:
        """Draw a batch; false if nobody wants it any more."""
        decoders = {place: RowDecoder(self._tokenizer, 1) for place, image in enumerate(batch) if image.drawing.rows}
        tops = dict.fromkeys(decoders, 0)
        parts = []
        for codes in self._engine.stream(self._filled(batch)):
            parts.append(codes)
            for place, decoder in decoders.items():
                if not batch[place].drawing.gone:
                    tops[place] += self._tell_rows(batch[place], decoder, codes[place : place + 1], tops[place])
            if self._abandoned or all(image.drawing.gone for image in batch):
                return False
            self._one_call()
        self._tell_images(batch, torch.cat(parts, dim=1))
        return True

    def _tell_images(self, batch: list[Image], codes: torch.Tensor) -> None:
        """Decode the images that are still wanted and hand them on, one group after the other."""
        with self._changed:
            self._expected = self._images() + sum(not image.drawing.waiting for image in batch)
        wanted = [place for place, image in enumerate(batch) if not image.drawing.gone]
        for first in range(0, len(wanted), self._decoder.group):
            places = wanted[first : first + self._decoder.group]
            images = self._decoder(codes[places]).cpu().numpy()
            for place, decoded in zip(places, images, strict=True):
                batch[place].drawing.tell(Finished(batch[place].number, decoded))

    def _filled(self, batch: list[Image]) -> list[SampleRequest]:
        """The batch's requests; on a GPU up to a power of two of them, as each size has its own buffers and graphs."""
        requests = [image.request for image in batch]
        if self._engine.device.type != "cuda":
            return requests
        size = min(1 << (len(requests) - 1).bit_length(), max(self.batch_size, len(requests)))
        return requests + [requests[-1]] * (size - len(requests))

    def _tell_rows(self, image: Image, decoder: RowDecoder, codes: torch.Tensor, first: int) -> int:
        """Hand on the rows that these codes (1, n) complete; how many there were."""
        strip = pixels.to_uint8(decoder.extend(codes))[0].cpu().numpy()
        side = self._tokenizer.config.patch_size
        count = strip.shape[1] // side
        for row in range(count):
            image.drawing.tell(Row(image.number, first + row, strip[:, row * side : (row + 1) * side]))
        return count


def gathering_seconds(batch_seconds: float) -> float:
    """How long the next batch waits for those who were in the last one, which took `batch_seconds`."""
    return max(min(_GATHER_SHARE * batch_seconds, _GATHER_MOST), _GATHER_SHARE_LONG * batch_seconds)
