"""One process that serves a model on a port, taken before the model is loaded so that a mistake is reported at once.

SIGTERM and Ctrl-C let running work finish; a second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from alitok.apps.serve.app import create_app
from alitok.apps.serve.guard import bounded_connection
from alitok.apps.serve.model import ServedModel
from alitok.apps.serve.options import AccessKey, ServeOptions
from alitok.apps.serve.service import Service
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.data.decode import silence_pillow
from alitok.sampling.pipeline import Pipeline

_BACKLOG = 512
_SWITCH_SECONDS = 5e-4


def serve_here(model: str, options: ServeOptions) -> int:
    """Serve in this process, like `run_serve`."""
    key, signals = options.read_key(), Signals()
    with bind_socket(options.host, options.port) as bound, silence_pillow(), signals.installed():
        app = load_app(model, options, key)
        service: Service = app.state.service
        report_ready(f"{service.model.name} at {url_of(bound)}", options, key)
        signals.serving = True
        _server(app, service).run(sockets=[bound])
    print_line("Stopped.")
    return signals.status


def load_app(model: str, options: ServeOptions, key: AccessKey | None) -> FastAPI:
    """The application of a model, warmed up; `AlitokError` if the model or the run cannot be used."""
    loaded: Future[FastAPI] = Future()

    def load() -> None:
        try:
            directory = locate(model)
            pipeline = Pipeline.from_pretrained(directory, device=options.device, precision=options.precision)
            service = Service(ServedModel(directory.resolve().name, pipeline), options, key=key)
            service.model.warm_up(service.batcher.batch_size)
            loaded.set_result(create_app(service))
        except BaseException as error:
            loaded.set_exception(error)

    # OpenMP keeps a team of threads for every thread that has computed. A second team beside the batcher's makes more
    # threads than cores; libgomp then puts threads to sleep after each operation instead of letting them spin, and one
    # image takes three times as long. A team ends with its thread.
    thread = threading.Thread(target=load, name="alitok-loading", daemon=True)  # a signal does not wait for it
    thread.start()
    app = loaded.result()
    thread.join()
    # The engine releases the interpreter lock at every operation, and would wait 5 ms each time to get it back.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return app


def _server(app: FastAPI, service: Service) -> uvicorn.Server:
    """Uvicorn, which rejects new work from the moment it is asked to stop."""

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.batcher.stop_accepting()
            super().handle_exit(sig, frame)

    return Server(
        uvicorn.Config(
            app,
            loop="asyncio",  # not uvloop, which only some installations have
            http=bounded_connection(service.limits.unread_seconds),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=service.limits.max_connections,
            timeout_graceful_shutdown=math.ceil(service.limits.stop_seconds),
        )
    )


class Signals:
    """Records SIGTERM and SIGINT: `received` and the exit `status`; unless `serving`, one ends the process."""

    def __init__(self) -> None:
        self.serving, self.status, self.received = False, 0, threading.Event()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.status = 130 if number == signal.SIGINT else 0
        if not self.serving:
            raise SystemExit(self.status)
        self.received.set()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handlers below a server's own, which raises again the signal that stopped it."""
        before = {number: signal.signal(number, self.receive) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind_socket(host: str, port: int) -> socket.socket:
    """A listening socket; `AlitokError` if the address does not exist or is taken."""
    if not 0 <= port <= 65535:
        raise AlitokError(f"A port must be 0 to 65535, not {port}.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise AlitokError(f"Unknown address {host}; give a name or address of this machine as --host.") from None
    family, *_, address = found[0]
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise AlitokError(f"Cannot listen on port {port} of {host}: {reason}. Choose another with --port.") from None


def url_of(bound: socket.socket) -> str:
    """The URL of a socket, for clients."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def report_ready(serving: str, options: ServeOptions, key: AccessKey | None) -> None:
    """Print that the service is ready, and warn if everybody who can reach the machine may use it."""
    if not options.is_local and key is None:
        print_line("Warning: anybody who can reach this machine can use the service; set a key with --key-file.")
    print_line(f"Serving {serving} (Ctrl-C stops).")


def print_line(text: str) -> None:
    """Print a line at once, as a program may be waiting for it."""
    print(text, flush=True)  # noqa: T201
