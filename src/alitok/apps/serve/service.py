"""The state that all requests share: the model and its batcher, limits, metrics, and the run that the page shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import Request
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from alitok.apps.serve.batcher import Batcher
from alitok.apps.serve.model import ServedModel
from alitok.apps.serve.options import AccessKey, ServeOptions
from alitok.apps.serve.run_view import RunView
from alitok.apps.serve.uploads import read_square

PAGE = Path(__file__).parent / "page"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_UPLOAD_THREADS = 2  # decoding one image may take some hundred megabytes


class ServiceMetrics:
    """Metrics of a service: requests (status 499 if the client left) and seconds until the response was sent."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ["route", "method", "status"]
        self.requests = Counter("alitok_requests", "Requests.", labels, registry=registry)
        self.seconds = Histogram(
            "alitok_request_seconds", "Duration of a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._images = Counter("alitok_images", "Images generated.", registry=registry)
        self._batch_size = Histogram("alitok_batch_images", "Images per batch.", buckets=_SIZES, registry=registry)
        self._batch_seconds = Histogram(
            "alitok_batch_seconds", "Duration of a batch.", buckets=_SECONDS, registry=registry
        )
        ProcessCollector(registry=registry)

    def record_batch(self, images: int, seconds: float) -> None:
        """Count a finished batch."""
        self._images.inc(images)
        self._batch_size.observe(images)
        self._batch_seconds.observe(seconds)


class Service:
    """One service, its batcher not started; `key` None = for anybody; `AlitokError` if the run is not a directory."""

    def __init__(
        self, model: ServedModel, options: ServeOptions, *, key: AccessKey | None = None, page: Path = PAGE
    ) -> None:
        self.model, self.limits, self.hosts = model, options.limits, options.accepted_hosts
        self.key, self.page = key, page
        self.metrics = ServiceMetrics()
        self.gather_metrics: Callable[[], Awaitable[bytes]] | None = None  # of all replicas, if there are several
        self.run = None if options.run is None else RunView(options.run)
        self.batcher = Batcher(
            model,
            batch_size=model.max_batch_size(options.batch_size),
            max_waiting=self.limits.max_waiting,
            on_batch=self.metrics.record_batch,
        )
        registry = self.metrics.registry
        waiting = Gauge("alitok_waiting", "Images and other jobs in the queue.", registry=registry)
        waiting.set_function(lambda: self.batcher.waiting)
        running = Gauge("alitok_running_images", "Images in the running batch.", registry=registry)
        running.set_function(lambda: self.batcher.running)
        # A pool of its own: a decode goes on after its client has left, and must still count.
        self._uploads = ThreadPoolExecutor(_UPLOAD_THREADS, "alitok-upload")

    async def read_image(self, data: bytes) -> Image.Image:
        """Crop an uploaded file to the tokenizer's size as `read_square` does; only a few are decoded at a time."""
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


class _Merged(dict[str, Metric], Collector):
    def collect(self) -> Iterable[Metric]:
        return self.values()


def merge_metrics(replicas: Mapping[str, Iterable[Metric]]) -> bytes:
    """Metrics by replica in Prometheus's text format, each sample labelled `replica`."""
    merged = _Merged()
    for replica, metrics in replicas.items():
        for metric in metrics:
            into = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit))
            for sample in metric.samples:
                into.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
    return generate_latest(merged)


def service_of(request: Request) -> Service:
    """The service that received a request."""
    return request.app.state.service
