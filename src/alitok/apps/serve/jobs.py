"""Jobs in the queue of the models' thread, and the events that it sends back to their event loops.

Shapes: f patch size, h image size.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.apps.serve.errors import ServiceError, internal
from alitok.sampling import SampleRequest

_log = logging.getLogger(__name__)


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
    """The images of one request; made by `Batcher.submit`.

    Args:
        requests: one per image.
        rows: whether to send rows while they are generated.
        loop: where the events are awaited.

    Attributes:
        waiting: images that are not in a batch yet.
        cancelled: whether anybody still wants the images.
    """

    def __init__(self, requests: Sequence[SampleRequest], rows: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.rows, self.cancelled = rows, False
        self.waiting = deque(QueuedImage(self, index, request) for index, request in enumerate(requests))
        self._left, self._loop = len(requests), loop
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
        """The next event; None after `timeout` seconds without one.

        Raises:
            ServiceError: the images cannot be generated.
        """
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


class Call:
    """A short function for the models' thread, with the future of its result."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.future: Future[Any] = Future()

    def run(self) -> None:
        """Call the function and settle the future, from the models' thread."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._function())
        except ServiceError as error:
            self.future.set_exception(error)
        except Exception:  # the thread must survive whatever it was
            _log.exception("A request failed")
            self.future.set_exception(internal())
