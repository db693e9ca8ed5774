"""The state that all requests share: the model and its batcher, limits, metrics, and the run that the page shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import Request
from PIL import Image
from prometheus_client import generate_latest

from alitok.apps.serve.batcher import Batcher
from alitok.apps.serve.metrics import ServiceMetrics
from alitok.apps.serve.model import ServedModel
from alitok.apps.serve.options import AccessKey, ServeOptions
from alitok.apps.serve.run_view import RunView
from alitok.apps.serve.uploads import read_square

PAGE = Path(__file__).parent / "page"
_UPLOAD_THREADS = 2  # decoding one image may take some hundred megabytes


class Service:
    """One service.

    Args:
        key: that clients must send; None = anybody may use the service.

    Attributes:
        batcher: not started.
        gather_metrics: returns the metrics of all replicas, where there are several.

    Raises:
        AlitokError: the run is not a directory.
    """

    def __init__(
        self, model: ServedModel, options: ServeOptions, *, key: AccessKey | None = None, page: Path = PAGE
    ) -> None:
        self.model, self.limits, self.hosts = model, options.limits, options.accepted_hosts
        self.key, self.page = key, page
        self.metrics = ServiceMetrics()
        self.gather_metrics: Callable[[], Awaitable[bytes]] | None = None
        self.run = None if options.run is None else RunView(options.run)
        self.batcher = Batcher(
            model,
            batch_size=model.max_batch_size(options.batch_size),
            max_waiting=self.limits.max_waiting,
            on_batch=self.metrics.record_batch,
        )
        self.metrics.watch(self.batcher)
        # A pool of its own: a decode goes on after its client has left, and must still count.
        self._uploads = ThreadPoolExecutor(_UPLOAD_THREADS, "alitok-upload")

    async def read_image(self, data: bytes) -> Image.Image:
        """Crop an uploaded file to the tokenizer's size; only a few are decoded at a time.

        Raises:
            ServiceError: as in `read_square`.
        """
        size = self.model.pipeline.tokenizer.config.image_size
        return await asyncio.get_running_loop().run_in_executor(self._uploads, read_square, data, size, self.limits)

    def close(self) -> None:
        """Finish accepted work and end the threads."""
        self.batcher.close(self.limits.stop_seconds)
        self._uploads.shutdown(wait=False, cancel_futures=True)

    async def metrics_text(self) -> bytes:
        """The metrics of the service, or of all its replicas."""
        if self.gather_metrics is not None:
            return await self.gather_metrics()
        return generate_latest(self.metrics.registry)


def service_of(request: Request) -> Service:
    """The service that received a request."""
    return request.app.state.service
