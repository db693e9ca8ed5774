"""The same application several times over, on the GPUs of one machine or of many, as a Ray Serve deployment.

Each replica is a process with its own model, batcher and queue, and answers as the single service does; Ray's proxies
stand before them at one address and give each request to a replica that has little to do. /metrics tells the numbers of
all replicas, whichever is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import ray
import torch
from prometheus_client.metrics_core import Metric
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from alitok.apps.serve.numbers import merged
from alitok.apps.serve.run import ServeOptions, Told, address_of, bound_socket, load_app, say, warn_if_open
from alitok.apps.serve.service import ServiceSettings
from alitok.core.console import counted
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.data.decode import silence_pillow

if TYPE_CHECKING:
    from fastapi import FastAPI

    from alitok.apps.serve.service import Service

NAME = "alitok"  # of the application and of its deployment
_TOLD_SECONDS = 5.0  # in which every replica must tell its numbers
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_OBJECTS = 256 << 20  # bytes of Ray's store on a machine of our own; requests and answers pass through it
_TRIES = 2  # at the start of a replica
_ANY = RayError, RayServeException, RuntimeError, TimeoutError
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would tell its makers
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",  # a busy machine needs more than 5 s to start a process
}


class Replica:
    """What Ray and the other replicas may ask of one, beside requests."""

    app: FastAPI  # given by Ray

    @property
    def _service(self) -> Service:
        return self.app.state.service

    def check_health(self) -> None:
        """Raise where the thread that owns the models has ended by mistake: Ray then starts another replica."""
        batcher = self._service.batcher
        if batcher.accepting and not batcher.alive:
            raise RuntimeError("The replica's worker has ended.")

    def stop_accepting(self) -> None:
        """Refuse new work."""
        self._service.batcher.stop_accepting()

    def finished(self) -> bool:
        """Whether everything that was accepted before `stop_accepting` has been drawn."""
        return not self._service.batcher.alive

    def numbers(self) -> tuple[str, list[Metric]]:
        """The replica's name, and what it counts."""
        return serve.get_replica_context().replica_id.unique_id, self._service.numbers.collected()


def application(
    options: ServeOptions, settings: ServiceSettings, *, replicas: int, cpus: float, gpus: float
) -> serve.Application:
    """The deployment, to be given to `serve.run`.

    Args:
        options: model, precision and device; every machine must find the model under the same name.
        settings: of each replica.
        replicas: how many there are.
        cpus: that each may use, which is also its number of threads, at least 1.
        gpus: of each; a share of one where several fit on it, 0 for replicas on processors.
    """

    def build() -> FastAPI:  # in the replica's own process, on a machine that may have other paths
        from alitok.apps.serve.service import PAGE

        torch.set_num_threads(max(1, int(cpus)))
        app = load_app(options, replace(settings, page=PAGE))
        app.state.service.gather_numbers = _gather_numbers
        return app

    made = serve.deployment(
        serve.ingress(build)(Replica),
        name=NAME,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=settings.limits.most_connections,  # the queue that refuses is the service's own
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=settings.limits.stop_seconds,
        max_constructor_retry_count=_TRIES,
        logging_config=_LOGGING,
    )
    return made.bind()


@functools.cache
def _everyone() -> Any:
    return serve.get_deployment_handle(NAME, NAME)


async def _gather_numbers() -> bytes:
    everyone = await asyncio.to_thread(_everyone)  # the first time it waits for Ray
    told = await everyone.broadcast("numbers").results_async(timeout_s=_TOLD_SECONDS, return_exceptions=True)
    return merged(dict(each for each in told if not isinstance(each, BaseException)))


def run_replicas(options: ServeOptions, settings: ServiceSettings) -> int:
    """Serve with `options.replicas` replicas until asked to stop, by Ray on this machine or on a cluster.

    Returns:
        The exit status: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        AlitokError: the port is taken, the model or the run cannot be used, or there are too few processors or GPUs.
    """
    replicas, told = options.replicas or 0, _Told()
    if replicas < 1:
        raise AlitokError(f"The number of replicas must be at least 1, not {replicas}.")
    directory = locate(options.model)  # a mistake is told before Ray starts
    if Path(options.model).is_dir():  # replicas work in other directories
        options = replace(options, model=str(directory.resolve()))
    if settings.run is not None:
        settings = replace(settings, run=settings.run.resolve())
    with bound_socket(options.host, options.port) as taken:
        address, (host, port) = address_of(taken), taken.getsockname()[:2]
    with silence_pillow(), told.installed():
        _start(options.cluster)
        try:
            with told.installed():  # Ray has its own
                cpus, gpus = share(_nodes(), replicas, _wanted_gpus(options))
                _run(application(options, settings, replicas=replicas, cpus=cpus, gpus=gpus), host, port)
                warn_if_open(options, settings)
                several = counted(replicas, "replica")
                say(f"Serving {directory.resolve().name} at {address} with {several} (Ctrl-C stops).")
                told.wait()
                _drain(options.limits.stop_seconds)
        finally:
            _end(options.cluster)
    say("Stopped.")
    return told.status


class _Told(Told):
    """Which signal came, for a process that only waits for one; a second one ends it at once."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = threading.Event()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._asked.is_set():
            os._exit(128 + number if number != signal.SIGINT else 130)
        super().receive(number, frame)
        self._asked.set()

    def wait(self) -> None:
        """Until one comes."""
        self.serving = True
        self._asked.wait()


def _start(cluster: str | None) -> None:
    """Join a cluster, or start Ray on this machine alone."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        if cluster is not None:
            ray.init(address=cluster, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local", include_dashboard=False, object_store_memory=_OBJECTS, logging_level=logging.ERROR
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise AlitokError(f"Ray cannot be used: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which often holds a whole traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__


def _end(cluster: str | None) -> None:
    """Leave Ray, which ends with us on a machine of our own; on a cluster Serve stays where others use it."""
    if cluster is not None and not serve.status().applications:
        serve.shutdown()
    ray.shutdown()


def _nodes() -> list[Mapping[str, float]]:
    """CPUs and GPUs of each machine that works."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _wanted_gpus(options: ServeOptions) -> float | None:
    return 0.0 if options.device in ("cpu", "mps") else options.gpus_per_replica


def share(nodes: Sequence[Mapping[str, float]], replicas: int, gpus: float | None) -> tuple[float, float]:
    """What each replica gets of the machines: processors and GPUs.

    Args:
        nodes: the numbers `CPU` and `GPU` of each machine.
        replicas: how many there are.
        gpus: that each shall have; None = one where there are any.

    Raises:
        AlitokError: there are not enough GPUs, or none of the machines has a processor.
    """
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
    able = [node for node in nodes if node.get("CPU")]
    if not able:
        raise AlitokError("Ray offers no processor for replicas; see what its machines were started with.")
    if gpus:
        places = [int(node.get("GPU", 0) / gpus + 1e-9) for node in able]
        if sum(places) < replicas:
            total = sum(node.get("GPU", 0) for node in able)
            raise AlitokError(
                f"There is no room for {counted(replicas, 'replica')} with GPUs of {gpus:g} each, as Ray has {total:g}"
                "; give a smaller --replicas or --gpus-per-replica."
            )
    else:
        places = [math.ceil(replicas / len(able))] * len(able)
    cpus = min(node["CPU"] / count for node, count in zip(able, places, strict=True) if count)
    return (float(int(cpus)) if cpus >= 1 else cpus), gpus


def _run(made: serve.Application, host: str, port: int) -> None:
    """Proxies at the address, and the replicas behind them; returns when they answer."""
    try:
        with contextlib.suppress(TimeoutError):  # on a busy machine; `run` waits for them as well
            serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port}, logging_config=_LOGGING)
        serve.run(made, name=NAME, route_prefix="/")
    except _ANY as error:
        raise AlitokError(f"The replicas did not start: {_reason(error)}.") from None


def _drain(seconds: float) -> None:
    """Refuse new work everywhere, wait for what was accepted, and end the replicas."""
    handle = serve.get_app_handle(NAME)

    def ask(what: str) -> list[Any]:
        return handle.broadcast(what).results(timeout_s=_TOLD_SECONDS, return_exceptions=True)

    with contextlib.suppress(*_ANY):  # no replica is left to be asked
        ask("stop_accepting")
        until = time.monotonic() + seconds
        while not all(ask("finished")) and time.monotonic() < until:  # one that does not answer is not waited for
            time.sleep(0.1)
    with contextlib.suppress(*_ANY):  # whatever it is: Ray is left next
        serve.delete(NAME)
