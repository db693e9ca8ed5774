"""One service: the model, the thread behind it, bounds and counters; and how long work is waited for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fastapi import Request
from PIL import Image

from alitok.apps.serve.batcher import Batcher
from alitok.apps.serve.faults import ClientGoneError, too_late
from alitok.apps.serve.limits import ServiceLimits
from alitok.apps.serve.model import ServedModel
from alitok.apps.serve.numbers import Numbers
from alitok.apps.serve.run_view import RunView
from alitok.apps.serve.uploads import read_square
from alitok.core.errors import AlitokError

Result = TypeVar("Result")

PAGE = Path(__file__).parent / "page"
_UPLOADS_AT_ONCE = 2  # that are decoded, each of which may take some hundred megabytes
_SHORTEST_KEY, _LONGEST_KEY = 8, 256


@dataclass(frozen=True)
class ServiceSettings:
    """How a service is set up.

    Attributes:
        limits: bounds of sizes, numbers and times.
        key: that clients must give; None = nobody is asked.
        hosts: names by which clients may call the service, without a port; None = any.
        run: the directory of a run to show; None = none.
        batch_size: images drawn at a time; None = as many as fit, up to a fixed number.
        page: the folder of the page.

    Raises:
        AlitokError: a key that cannot stand in a header, or a batch of none.
    """

    limits: ServiceLimits = field(default_factory=ServiceLimits)
    key: str | None = field(default=None, repr=False)
    hosts: frozenset[str] | None = None
    run: Path | None = None
    batch_size: int | None = None
    page: Path = PAGE

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.batch_size is not None and self.batch_size < 1:
            raise AlitokError(f"The batch size must be at least 1, not {self.batch_size}.")
        key = self.key
        if key is not None and not (
            _SHORTEST_KEY <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable() and " " not in key
        ):
            raise AlitokError(
                f"A key must be {_SHORTEST_KEY} to {_LONGEST_KEY} printable ASCII characters without spaces."
            )


class Service:
    """What all requests share.

    Args:
        model: that is served.
        settings: as above.

    Attributes:
        batcher: not started.
        gather_numbers: gives what all replicas of the service count, where there are several.
    """

    def __init__(self, model: ServedModel, settings: ServiceSettings) -> None:
        self.model, self.settings, self.limits = model, settings, settings.limits
        self.numbers = Numbers()
        self.gather_numbers: Callable[[], Awaitable[bytes]] | None = None
        self.run = None if settings.run is None else RunView(settings.run)
        pipeline, batch_size = model.pipeline, model.largest_batch(settings.batch_size)
        self.batcher = Batcher(
            pipeline.engine,
            pipeline.tokenizer,
            model.decoder,
            batch_size=batch_size,
            most_waiting=settings.limits.most_waiting,
            on_batch=self.numbers.batch,
        )
        self.numbers.watch(self.batcher)
        # Threads of their own: one goes on when its client has left, and still counts among the few that may decode.
        self._uploads = ThreadPoolExecutor(_UPLOADS_AT_ONCE, "alitok-upload")
        self._digest = None if settings.key is None else _digest(settings.key.encode())

    def admits(self, authorization: bytes) -> bool:
        """Whether an Authorization header holds the key; takes the same time whatever it holds."""
        if self._digest is None:
            return True
        scheme, _, key = authorization.partition(b" ")
        return hmac.compare_digest(_digest(key.strip()), self._digest) and scheme.lower() == b"bearer"

    async def square(self, data: bytes) -> Image.Image:
        """The square of an uploaded file that the model's tokenizer reads; only a few are decoded at a time.

        Raises:
            ServiceError: as `read_square` does.
        """
        size = self.model.pipeline.tokenizer.config.image_size
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._uploads, read_square, data, size, self.limits)

    def close(self) -> None:
        """Finish what was accepted, and end the threads."""
        self.batcher.close(self.limits.stop_seconds)
        self._uploads.shutdown(wait=False, cancel_futures=True)

    async def numbers_text(self) -> bytes:
        """The numbers of the service, as Prometheus reads them; of all its replicas, where there are several."""
        return self.numbers.text() if self.gather_numbers is None else await self.gather_numbers()

    async def in_time(self, request: Request, work: Awaitable[Result]) -> Result:
        """The result of `work`, which is cancelled when the client leaves or the deadline passes.

        Raises:
            ClientGoneError: the client left.
            ServiceError: the deadline passed.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
        try:
            done, _ = await asyncio.wait(
                {task, gone}, timeout=self.limits.deadline_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                return task.result()
            if gone in done:
                raise ClientGoneError
            raise too_late(self.limits.deadline_seconds)
        finally:
            for each in (task, gone):
                each.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    return request.app.state.service


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
