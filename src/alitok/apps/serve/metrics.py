"""Prometheus metrics; each service has its own registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from alitok.apps.serve.batcher import Batcher

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServiceMetrics:
    """Metrics of one service.

    Attributes:
        requests: by route, method and status; 499 is a client that disconnected.
        seconds: until the whole response was sent, by route.
    """

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

    def watch(self, batcher: Batcher) -> None:
        """Export the current length of the queue and size of the running batch."""
        waiting = Gauge("alitok_waiting", "Images and other jobs in the queue.", registry=self.registry)
        waiting.set_function(lambda: batcher.waiting)
        running = Gauge("alitok_running_images", "Images in the running batch.", registry=self.registry)
        running.set_function(lambda: batcher.running)

    def record_batch(self, images: int, seconds: float) -> None:
        """Count a finished batch."""
        self._images.inc(images)
        self._batch_size.observe(images)
        self._batch_seconds.observe(seconds)


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
