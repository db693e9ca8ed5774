"""What waits for the thread that owns the models, and how it tells what became of it.

Enter: the images of a request, or a short function, in a coroutine. Leave: rows, images and results, told from the
models' thread and received in the coroutine's event loop. Shapes: f patch side, h image side.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.apps.serve.faults import ServiceError, internal
from alitok.sampling import SampleRequest

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A strip (3, f, h) uint8 of an image; both are counted within the request and the image."""

    index: int
    row: int
    strip: np.ndarray


@dataclass(frozen=True)
class Finished:
    """A whole image (3, h, h) uint8, counted within the request."""

    index: int
    image: np.ndarray


class Drawing:
    """A request's images on their way; made by `Batcher.submit`.

    Args:
        requests: one per image.
        rows: whether strips are wanted as they are drawn.
        loop: where the events are waited for.
    """

    def __init__(self, requests: Sequence[SampleRequest], rows: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.rows, self.gone = rows, False
        self.waiting = deque(Image(self, number, request) for number, request in enumerate(requests))
        self._left, self._loop = len(requests), loop
        self._events: asyncio.Queue[Row | Finished | ServiceError] = asyncio.Queue()

    def tell(self, event: Row | Finished | ServiceError) -> None:
        """Hand on what happened, from any thread."""
        if not self.gone:
            _soon(self._loop, self._events.put_nowait, event)

    @property
    def finished(self) -> bool:
        """Whether all images have been given out."""
        return not self._left

    async def next(self, patience: float | None = None) -> Row | Finished | None:
        """What happens next; None if nothing does for `patience` seconds.

        Raises:
            ServiceError: the images cannot be drawn.
        """
        try:
            async with asyncio.timeout(patience):
                event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, ServiceError):
            raise event
        self._left -= isinstance(event, Finished)
        return event


@dataclass(frozen=True)
class Image:
    """One image of a drawing, for a batch."""

    drawing: Drawing
    number: int  # within its drawing
    request: SampleRequest


@dataclass(frozen=True)
class Call:
    """A short piece of other work, and who waits for it."""

    function: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def run(self) -> None:
        """Do it and tell its result, from the thread that owns the models."""
        if self.future.cancelled():
            return
        try:
            result = self.function()
        except ServiceError as error:
            _soon(self.loop, _settle, self.future, None, error)
        except Exception:  # whatever it was, the one who waits is told, and the thread goes on
            _log.exception("A request failed")
            _soon(self.loop, _settle, self.future, None, internal())
        else:
            _soon(self.loop, _settle, self.future, result, None)


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:  # the loop is closed: nobody waits any more
        _log.debug("An answer came after its event loop had closed")


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
