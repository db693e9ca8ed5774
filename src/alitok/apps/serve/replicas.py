"""Replicas of the service, each with its own model and queue, as a Ray Serve deployment behind one address."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from prometheus_client.metrics_core import Metric
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from alitok.apps.serve.options import AccessKey, ServeOptions
from alitok.apps.serve.server import Signals, bind_socket, load_app, print_line, report_ready, url_of
from alitok.apps.serve.service import Service, merge_metrics
from alitok.core.console import counted
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.data.decode import silence_pillow

if TYPE_CHECKING:
    from fastapi import FastAPI

_NAME = "alitok"  # of the application and of its deployment
_BROADCAST_SECONDS = 5.0
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_OBJECT_STORE_BYTES = 256 << 20  # on this machine; requests and responses pass through it
_RAY_ERRORS = RayError, RayServeException, RuntimeError, TimeoutError
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",  # a busy machine needs more than 5 s to start a process
}


class Replica:
    """What Ray and the other replicas may call, besides requests."""

    app: FastAPI  # set by Ray

    @property
    def _service(self) -> Service:
        return self.app.state.service

    def check_health(self) -> None:
        """Raise if the batcher's thread has died: Ray then starts another replica."""
        batcher = self._service.batcher
        if batcher.accepting and not batcher.alive:
            raise RuntimeError("The replica's worker has died.")

    def stop_accepting(self) -> None:
        """Reject new work."""
        self._service.batcher.stop_accepting()

    def finished(self) -> bool:
        """Whether everything accepted before `stop_accepting` is done."""
        return not self._service.batcher.alive

    def metrics(self) -> tuple[str, list[Metric]]:
        """The replica's name and metrics."""
        return serve.get_replica_context().replica_id.unique_id, list(self._service.metrics.registry.collect())


def serve_replicas(model: str, options: ServeOptions) -> int:
    """Serve with `options.replicas` replicas, like `run_serve`; also an error if there are too few CPUs or GPUs."""
    key, replicas, signals = options.read_key(), options.replicas or 1, Signals()
    directory = locate(model)  # before Ray starts
    if Path(model).is_dir():  # replicas run in other working directories
        model = str(directory.resolve())
    if options.run is not None:
        options = replace(options, run=options.run.resolve())
    with bind_socket(options.host, options.port) as bound:
        url, (host, port) = url_of(bound), bound.getsockname()[:2]
    with silence_pillow(), signals.installed():
        _start_ray(options.cluster)
        try:
            with signals.installed():  # over Ray's own handlers
                gpus = 0.0 if options.device in ("cpu", "mps") else options.gpus_per_replica
                nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                cpus, gpus = resources_per_replica(nodes, replicas, gpus)
                _deploy(_application(model, options, key, cpus=cpus, gpus=gpus), host, port)
                serving = f"{directory.resolve().name} at {url} with {counted(replicas, 'replica')}"
                report_ready(serving, options, key)
                signals.serving = True
                signals.received.wait()
                for number in (signal.SIGTERM, signal.SIGINT):  # a second one ends the process at once
                    signal.signal(number, lambda number, frame: os._exit(128 + number))
                _drain(options.limits.stop_seconds)
        finally:
            if options.cluster is not None and not serve.status().applications:  # others may use Serve on a cluster
                serve.shutdown()
            ray.shutdown()
    print_line("Stopped.")
    return signals.status


def _application(
    model: str, options: ServeOptions, key: AccessKey | None, *, cpus: float, gpus: float
) -> serve.Application:
    """The deployment; `cpus` and `gpus` are per replica."""

    def build() -> FastAPI:  # in the replica's own process
        torch.set_num_threads(max(1, int(cpus)))
        app = load_app(model, options, key)
        app.state.service.gather_metrics = _gather_metrics
        return app

    deployment = serve.deployment(
        serve.ingress(build)(Replica),
        name=_NAME,
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=options.limits.max_connections,  # the service has its own queue
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=options.limits.stop_seconds,
        max_constructor_retry_count=2,
        logging_config=_LOGGING,
    )
    return deployment.bind()


@functools.cache
def _deployment_handle() -> Any:
    return serve.get_deployment_handle(_NAME, _NAME)


async def _gather_metrics() -> bytes:
    handle = await asyncio.to_thread(_deployment_handle)  # the first call waits for Ray
    results = await handle.broadcast("metrics").results_async(timeout_s=_BROADCAST_SECONDS, return_exceptions=True)
    return merge_metrics(dict(each for each in results if not isinstance(each, BaseException)))


def _start_ray(cluster: str | None) -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    local = {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    settings: dict[str, Any] = local if cluster is None else {"address": cluster}
    try:
        ray.init(**settings, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise AlitokError(f"Cannot use Ray: {_last_line(error)}.") from None


def _last_line(error: Exception) -> str:
    """The reason in an error of Ray, which often holds a traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__


def resources_per_replica(
    nodes: Sequence[Mapping[str, float]], replicas: int, gpus: float | None
) -> tuple[float, float]:
    """CPUs and GPUs per replica; `gpus` None = one if there are any; `AlitokError` if the `nodes` have too few."""
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
    usable = [node for node in nodes if node.get("CPU")]
    if not usable:
        raise AlitokError("Ray offers no CPUs for replicas; check how its machines were started.")
    if gpus:
        slots = [int(node.get("GPU", 0) / gpus + 1e-9) for node in usable]
        if sum(slots) < replicas:
            total = sum(node.get("GPU", 0) for node in usable)
            raise AlitokError(
                f"{counted(replicas, 'replica')} with {gpus:g} GPUs each do not fit, as Ray has {total:g}; "
                "lower --replicas or --gpus-per-replica."
            )
    else:
        slots = [math.ceil(replicas / len(usable))] * len(usable)
    cpus = min(node["CPU"] / count for node, count in zip(usable, slots, strict=True) if count)
    return (float(int(cpus)) if cpus >= 1 else cpus), gpus


def _deploy(application: serve.Application, host: str, port: int) -> None:
    """Start proxies at the address and the replicas behind them; returns when they respond."""
    try:
        with contextlib.suppress(TimeoutError):  # on a busy machine; `serve.run` waits for the proxies as well
            serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port}, logging_config=_LOGGING)
        serve.run(application, name=_NAME, route_prefix="/")
    except _RAY_ERRORS as error:
        raise AlitokError(f"The replicas did not start: {_last_line(error)}.") from None


def _drain(seconds: float) -> None:
    handle = serve.get_app_handle(_NAME)

    def broadcast(method: str) -> list[Any]:
        return handle.broadcast(method).results(timeout_s=_BROADCAST_SECONDS, return_exceptions=True)

    with contextlib.suppress(*_RAY_ERRORS):  # no replica is left
        broadcast("stop_accepting")
        deadline = time.monotonic() + seconds
        while not all(broadcast("finished")) and time.monotonic() < deadline:  # exceptions count as finished
            time.sleep(0.1)
    with contextlib.suppress(*_RAY_ERRORS):  # Ray is shut down next
        serve.delete(_NAME)
