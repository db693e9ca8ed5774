"""`alitok serve`: a saved pair to a service on a port, until it is asked to stop.

The port is taken before the model is loaded, so that a mistake is told at once. SIGTERM and Ctrl-C let running work
finish; a second Ctrl-C ends at once. Several replicas are `alitok.apps.serve.replicas`.
"""

from __future__ import annotations

import importlib
import ipaddress
import math
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from alitok.apps.serve.limits import ServiceLimits
from alitok.apps.serve.model import ServedModel
from alitok.core.device import DeviceName
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.data.decode import silence_pillow
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.settings import EnginePrecision

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

    from alitok.apps.serve.service import ServiceSettings

Result = TypeVar("Result")

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_BACKLOG = 512
_SWITCH_SECONDS = 5e-4


@dataclass(frozen=True)
class ServeOptions:
    """What the user asked for; see `alitok serve --help`."""

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    run: Path | None = None
    key_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    batch_size: int | None = None
    precision: EnginePrecision = "fp32"
    device: DeviceName = "auto"
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    replicas: int | None = None
    gpus_per_replica: float | None = None
    cluster: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def run_serve(options: ServeOptions) -> int:
    """Serve until asked to stop.

    Returns:
        The exit status: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        AlitokError: the port is taken, the model, the key file or the run cannot be used, or a library is missing.
    """
    try:
        importlib.import_module("alitok.apps.serve.app")
    except ImportError as error:
        raise AlitokError(f"The service needs {error.name}: pip install 'alitok[serve]'.") from None
    settings = _settings(options)
    if options.replicas is not None:
        try:
            from alitok.apps.serve.replicas import run_replicas
        except ImportError as error:
            raise AlitokError(f"Replicas need {error.name}: pip install 'alitok[serve,ray]'.") from None
        return run_replicas(options, settings)
    if options.gpus_per_replica is not None or options.cluster is not None:
        raise AlitokError("--gpus-per-replica and --cluster are for replicas; give their number as --replicas.")
    told = Told()
    with bound_socket(options.host, options.port) as taken, silence_pillow(), told.installed():
        app = load_app(options, settings)
        warn_if_open(options, settings)
        say(f"Serving {app.state.service.model.name} at {address_of(taken)} (Ctrl-C stops).")
        told.serving = True
        _server(app, options.limits, app.state.service.batcher.stop_accepting).run(sockets=[taken])
    say("Stopped.")
    return told.status


def _settings(options: ServeOptions) -> ServiceSettings:
    from alitok.apps.serve.service import ServiceSettings

    return ServiceSettings(
        limits=options.limits,
        key=None if options.key_file is None else read_key(options.key_file),
        hosts=hosts_of(options),
        run=options.run,
        batch_size=options.batch_size,
    )


def hosts_of(options: ServeOptions) -> frozenset[str] | None:
    """Names that the service answers to, as they are compared; None = any."""
    if not options.local and not options.allow_hosts:
        return None
    return frozenset(name.lower() for name in (*_LOCAL_NAMES, options.host, *options.allow_hosts))


def load_app(options: ServeOptions, settings: ServiceSettings) -> FastAPI:
    """The application of the options' model, warmed up; it works from its startup to its shutdown.

    Raises:
        AlitokError: the model or the run cannot be used.
    """
    from alitok.apps.serve.app import create_app

    def load() -> FastAPI:
        directory = locate(options.model)
        pipeline = Pipeline.from_pretrained(directory, device=options.device, precision=options.precision)
        model = ServedModel(directory.resolve().name, pipeline)
        app = create_app(model, settings)
        model.warm_up(app.state.service.batcher.batch_size)
        return app

    app = _in_a_thread_that_ends(load)
    # The engine gives the interpreter away at every operation, and would wait 5 ms each time to have it back.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return app


def _in_a_thread_that_ends(function: Callable[[], Result]) -> Result:
    """What it returns or raises.

    OpenMP keeps a team of threads for every thread that has computed. If this one had a team besides the batcher's,
    there would be more threads than cores; libgomp then puts a thread to sleep at the end of each operation instead of
    letting it wait a moment for the next, and drawing one image takes three times as long. A team ends with its
    thread.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # whatever it is, it is raised again where it is waited for
            future.set_exception(error)

    thread = threading.Thread(target=work, name="alitok-loading", daemon=True)  # a signal does not wait for it
    thread.start()
    result = future.result()
    thread.join()
    return result


def _server(app: FastAPI, limits: ServiceLimits, stop_accepting: Callable[[], None]) -> Server:
    """Uvicorn, which refuses new work from the moment that it is told to stop."""
    import uvicorn

    from alitok.apps.serve.connection import connections

    class Stopping(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            stop_accepting()
            super().handle_exit(sig, frame)

    return Stopping(
        uvicorn.Config(
            app,
            loop="asyncio",  # and not another one, which only some installations have
            http=connections(limits.unread_seconds),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.most_connections,
            timeout_graceful_shutdown=math.ceil(limits.stop_seconds),
        )
    )


class Told:
    """Which signal came.

    Attributes:
        serving: whether the server has its own handlers, or waits for a signal; before, one ends the process.
        status: of the process, by the last signal.
    """

    def __init__(self) -> None:
        self.serving, self.status = False, 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.status = 130 if number == signal.SIGINT else 0
        if not self.serving:
            raise SystemExit(self.status)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handlers, under a server's own, which hands on to them what made it stop."""
        before = {number: signal.signal(number, self.receive) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def address_of(taken: socket.socket) -> str:
    """As a client writes it."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def warn_if_open(options: ServeOptions, settings: ServiceSettings) -> None:
    """Log so if whoever reaches the machine may use the service."""
    if not options.local and settings.key is None:
        say("Anybody who reaches this machine can use the service; --key-file asks for a key.")


def say(sentence: str) -> None:
    """Print a line; whoever started the service waits for some."""
    print(sentence, flush=True)  # noqa: T201


def read_key(path: Path) -> str:
    """The key in a file of one line; other lines must be empty.

    Raises:
        AlitokError: the file cannot be read, or holds no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else "it is no text"
        raise AlitokError(f"The key file {path} cannot be read: {reason}; write a key into it, in one line.") from None
    keys = [line.strip() for line in lines if line.strip()]
    if len(keys) != 1:
        raise AlitokError(f"The key file {path} must hold one line, the key, and holds {len(keys)}.")
    return keys[0]


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at the address.

    Raises:
        AlitokError: there is no such address, or it is taken.
    """
    if not 0 <= port <= 65535:
        raise AlitokError(f"A port is a number from 0 to 65535, not {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise AlitokError(f"There is no address {host}; give a name or number of this machine as --host.") from None
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(_BACKLOG)
    except OSError as error:
        taken.close()
        reason = (error.strerror or str(error)).lower()
        raise AlitokError(f"Port {port} of {host} cannot be used: {reason}; choose another with --port.") from None
    return taken
