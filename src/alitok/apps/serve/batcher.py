"""Dynamic batching: one thread owns the models, and all requests share its batches.

Jobs take turns in a batch, so one of many images does not hold up one of few. Calls (encoding, decoding) run between
batches and between the rows of a batch. No result depends on the rest of the batch. A request reserves slots before any
work is done for it, so that work begun is finished even if the queue fills up or the service shuts down.

Shapes: f patch size, h image size.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from alitok.apps.serve.errors import ServiceError, internal, stopping
from alitok.apps.serve.model import ServedModel
from alitok.core import images as pixels
from alitok.sampling import SampleRequest
from alitok.tokenizer import RowDecoder

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
_MAX_RETRY_SECONDS = 60


@dataclass(frozen=True)
class ImageRow:
    """A strip (3, f, h) uint8 of an image; `index` counts within the request, `row` within the image."""

    index: int
    row: int
    strip: np.ndarray


@dataclass(frozen=True)
class FinishedImage:
    """An image (3, h, h) uint8; `index` counts within the request."""

    index: int
    image: np.ndarray


class ImageJob:
    """The images of one request, those `waiting` not in a batch yet; made in the event loop that awaits the events."""

    def __init__(self, requests: Sequence[SampleRequest], rows: bool) -> None:
        self.rows, self.cancelled = rows, False
        self.waiting = deque(QueuedImage(self, index, request) for index, request in enumerate(requests))
        self._left, self._loop = len(requests), asyncio.get_running_loop()
        self._events: asyncio.Queue[ImageRow | FinishedImage | ServiceError] = asyncio.Queue()

    def publish(self, event: ImageRow | FinishedImage | ServiceError) -> None:
        """Send an event to the job's loop, from any thread."""
        if not self.cancelled:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    @property
    def finished(self) -> bool:
        """Whether `next` has returned all images."""
        return not self._left

    async def next(self, timeout: float | None = None) -> ImageRow | FinishedImage | None:
        """The next event; None after `timeout` seconds without one; `ServiceError` if the generation failed."""
        try:
            async with asyncio.timeout(timeout):
                event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, ServiceError):
            raise event
        self._left -= isinstance(event, FinishedImage)
        return event


@dataclass(frozen=True)
class QueuedImage:
    """One image of a job; `index` counts within the job."""

    job: ImageJob
    index: int
    request: SampleRequest


class Reservation:
    """Slots in the queue for the work of one request; unused ones are released when its context ends."""

    def __init__(self, batcher: Batcher, count: int) -> None:
        self._batcher, self._left = batcher, count

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self._release(self._left)

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run a short function in the models' thread, using no slot; `ServiceError` if it fails or cannot run."""
        future: Future[Result] = Future()
        with self._batcher._changed:
            self._batcher._require_thread()
            self._batcher._calls.append((future, function))
            self._batcher._changed.notify_all()
        return await asyncio.wrap_future(future)

    async def call_each(self, functions: Iterable[Callable[[], Result]]) -> list[Result]:
        """Run functions in turn like `call`, each of which uses up a slot; other work may run in between."""
        results = []
        for function in functions:
            results.append(await self.call(function))
            self._release(1)
        return results

    def submit(self, requests: Sequence[SampleRequest], *, rows: bool = False) -> ImageJob:
        """Queue one image per slot, each valid for the generator; `ServiceError` if the thread has ended."""
        assert len(requests) == self._left
        job = ImageJob(requests, rows)
        with self._batcher._changed:
            self._batcher._require_thread()
            self._batcher._jobs.append(job)
            self._release(self._left)
        return job

    def _release(self, count: int) -> None:
        with self._batcher._changed:
            self._left -= count
            self._batcher._reserved -= count
            self._batcher._changed.notify_all()


class Batcher:
    """The queue in front of the engine, of at most `max_waiting` images and calls, and the thread behind it.

    `on_batch` receives the images and seconds of each finished batch, in the models' thread.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        batch_size: int,
        max_waiting: int,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self._engine, self._tokenizer, self._decoder = model.pipeline.engine, model.pipeline.tokenizer, model.decoder
        self.batch_size, self._max_waiting, self._on_batch = batch_size, max_waiting, on_batch
        self._changed = threading.Condition()  # of a lock that its thread may take again
        self._jobs: deque[ImageJob] = deque()  # with waiting images
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._reserved = 0  # slots not used yet, those of running calls included
        self.accepting, self._abandoned, self._ended = True, False, False
        self.running = 0
        self._expected, self._gather_until, self._seconds_per_image = 0, 0.0, 0.0
        self._threads = torch.get_num_threads()
        # A daemon, so that a second Ctrl-C ends the process at once.
        self._thread = threading.Thread(target=self._work, name="alitok-batcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Images and calls in the queue, including reserved slots."""
        with self._changed:
            return self._reserved + self._images()

    def stop_accepting(self) -> None:
        """Reject new work; accepted work is finished. Takes no lock, so a signal handler may call it."""
        self.accepting = False

    def close(self, timeout: float | None = None) -> None:
        """Finish accepted work and end the thread; after `timeout` s (None = never), abandon the running batch."""
        self.stop_accepting()
        for abandoned in (False, True):
            self._abandoned = abandoned
            with self._changed:
                self._changed.notify_all()
            if self._thread.ident is not None:
                self._thread.join(timeout)

    def reserve(self, count: int) -> Reservation:
        """Reserve `count` slots for one request; `ServiceError` if the queue is full or the service shuts down."""
        with self._changed:
            if not self.accepting:
                raise stopping()
            excess = self.waiting + count - self._max_waiting
            if excess > 0:
                retry_after = min(max(1, math.ceil(excess * self._seconds_per_image)), _MAX_RETRY_SECONDS)
                raise ServiceError(429, "busy", "Too many images are waiting.", {"Retry-After": str(retry_after)})
            self._reserved += count
        return Reservation(self, count)

    def cancel(self, job: ImageJob) -> None:
        """Drop a job's waiting images and ignore its running ones; may be called repeatedly."""
        job.cancelled = True
        with self._changed:
            job.waiting.clear()
            if job in self._jobs:
                self._jobs.remove(job)

    def _require_thread(self) -> None:
        if self._ended:
            raise stopping()

    def _images(self) -> int:
        return sum(len(job.waiting) for job in self._jobs)

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # a setting of each thread
        while True:
            with self._changed:
                while not (self._calls or self._jobs):
                    if not self.accepting and (self._abandoned or not self._reserved):
                        self._ended = True
                        return
                    self._changed.wait(1.0)  # `stop_accepting` notifies nobody
            self._run_call()
            with self._changed:
                self._gather()
                batch = self._take()
            if batch:
                self._run_batch(batch)

    def _run_call(self) -> None:
        with self._changed:
            if not self._calls:
                return
            future, function = self._calls.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except ServiceError as error:
            future.set_exception(error)
        except Exception:  # the thread must survive whatever it was
            _log.exception("A request failed")
            future.set_exception(internal())

    def _gather(self) -> None:
        """Wait briefly for the last batch's clients: split over two batches, they would stay so, each half empty."""
        while self._jobs and self._images() < min(self._expected, self.batch_size) and self.accepting:
            left = self._gather_until - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _take(self) -> list[QueuedImage]:
        batch: list[QueuedImage] = []
        while self._jobs and len(batch) < self.batch_size:
            job = self._jobs.popleft()
            batch.append(job.waiting.popleft())
            if job.waiting:
                self._jobs.append(job)
        return batch

    def _run_batch(self, batch: list[QueuedImage]) -> None:
        began, self.running = time.monotonic(), len(batch)
        try:
            finished = self._generate(batch)
        except Exception:  # the thread must survive whatever it was
            _log.exception("A batch failed")
            finished = False
            for job in {id(image.job): image.job for image in batch}.values():
                job.publish(internal())
                self.cancel(job)
        finally:
            self.running = 0
        if finished:
            ended = time.monotonic()
            seconds = ended - began
            self._gather_until, self._seconds_per_image = ended + gather_seconds(seconds), seconds / len(batch)
            self._on_batch(len(batch), seconds)

    @torch.inference_mode()
    def _generate(self, batch: list[QueuedImage]) -> bool:
        """Generate a batch; false if it was abandoned because nobody wants it."""
        decoders = {slot: RowDecoder(self._tokenizer, 1) for slot, image in enumerate(batch) if image.job.rows}
        rows = dict.fromkeys(decoders, 0)
        parts = []
        for codes in self._engine.stream(self._padded(batch)):
            parts.append(codes)
            for slot, decoder in decoders.items():
                if not batch[slot].job.cancelled:
                    rows[slot] += self._publish_rows(batch[slot], decoder, codes[slot : slot + 1], rows[slot])
            if self._abandoned or all(image.job.cancelled for image in batch):
                return False
            self._run_call()
        self._publish_images(batch, torch.cat(parts, dim=1))
        return True

    def _padded(self, batch: list[QueuedImage]) -> list[SampleRequest]:
        """The batch's requests, on a GPU padded to a power of two, as each size has its own buffers and graphs."""
        requests = [image.request for image in batch]
        if self._engine.device.type != "cuda":
            return requests
        size = min(1 << (len(requests) - 1).bit_length(), max(self.batch_size, len(requests)))
        return requests + [requests[-1]] * (size - len(requests))

    def _publish_rows(self, image: QueuedImage, decoder: RowDecoder, codes: torch.Tensor, first: int) -> int:
        """Publish the rows that `codes` (1, n) complete and return their number; `first` is the first one's index."""
        strip = pixels.to_uint8(decoder.extend(codes))[0].cpu().numpy()
        size = self._tokenizer.config.patch_size
        count = strip.shape[1] // size
        for row in range(count):
            image.job.publish(ImageRow(image.index, first + row, strip[:, row * size : (row + 1) * size]))
        return count

    def _publish_images(self, batch: list[QueuedImage], codes: torch.Tensor) -> None:
        with self._changed:
            self._expected = self._images() + sum(not image.job.waiting for image in batch)
        wanted = [slot for slot, image in enumerate(batch) if not image.job.cancelled]
        for first in range(0, len(wanted), self._decoder.group):
            slots = wanted[first : first + self._decoder.group]
            images = self._decoder(codes[slots]).cpu().numpy()
            for slot, decoded in zip(slots, images, strict=True):
                batch[slot].job.publish(FinishedImage(batch[slot].index, decoded))


def gather_seconds(batch_seconds: float) -> float:
    """Seconds to wait for a batch's clients, who need a few ms in any case: a tenth of its own up to 0.1 s, or 1/50."""
    return max(min(0.1 * batch_seconds, 0.1), 0.02 * batch_seconds)
