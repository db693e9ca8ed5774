"""What the service counts, for Prometheus: each service has a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from alitok.apps.serve.batcher import Batcher

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Numbers:
    """Counters of one service.

    Attributes:
        requests: by route, method and status; 499 is a client that left.
        seconds: until the whole answer was sent, by route.
        images: drawn in finished batches.
        batch_size: images of each finished batch.
        batch_seconds: of each finished batch.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "alitok_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "alitok_request_seconds", "Time of a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("alitok_images", "Images drawn.", registry=registry)
        self.batch_size = Histogram("alitok_batch_images", "Images of a batch.", buckets=_SIZES, registry=registry)
        self.batch_seconds = Histogram("alitok_batch_seconds", "Time of a batch.", buckets=_SECONDS, registry=registry)
        ProcessCollector(registry=registry)

    def watch(self, batcher: Batcher) -> None:
        """Show what waits and runs, as it is when asked."""
        waiting = Gauge("alitok_waiting", "Images and other work that wait.", registry=self.registry)
        waiting.set_function(lambda: batcher.waiting)
        running = Gauge("alitok_running_images", "Images in the batch under way.", registry=self.registry)
        running.set_function(lambda: batcher.running)

    def batch(self, images: int, seconds: float) -> None:
        """Count a finished batch."""
        self.images.inc(images)
        self.batch_size.observe(images)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)

    def collected(self) -> list[Metric]:
        """All of them, as they are now; they can be pickled."""
        return list(self.registry.collect())


class _Fixed(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def merged(replicas: Mapping[str, Iterable[Metric]]) -> bytes:
    """What several services counted, as Prometheus reads it: each sample with the label `replica`.

    Args:
        replicas: what `Numbers.collected` gave, by the replica's name.
    """
    metrics: dict[str, Metric] = {}
    for replica, theirs in replicas.items():
        for one in theirs:
            into = metrics.setdefault(one.name, Metric(one.name, one.documentation, one.type, one.unit))
            for sample in one.samples:
                into.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Fixed(metrics.values()))
    return generate_latest(registry)
