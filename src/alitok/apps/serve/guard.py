"""Protection of the service: access checks, bounds on bodies and unread responses, safe headers, request metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from alitok.apps.serve.errors import ClientGoneError, ServiceError, internal, stopping
from alitok.apps.serve.options import ServiceLimits
from alitok.apps.serve.service import Service

_log = logging.getLogger(__name__)
CONTENT_SECURITY_POLICY = (  # the page's own files only
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 64 << 20
_JSON, _FORM = b"application/json", b"multipart/form-data"
_CONTENT_TYPES = {
    "/v1/images": _JSON,
    "/v1/images/stream": _JSON,
    "/v1/decode": _JSON,
    "/v1/encode": _FORM,
    "/v1/reconstruct": _FORM,
}
_ROUTES = {*_CONTENT_TYPES, "/", "/healthz", "/metrics", "/openapi.json", "/v1/models", "/v1/run"}
_PREFIXES = ("/static/", "/v1/run/images/")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


class Guard:
    """ASGI middleware around all routes; the service has the key, hosts, limits and metrics."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; other scopes are passed through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, exchange = time.monotonic(), _Exchange(receive, send, self._service.limits, scope)
        try:
            self._check(scope)
            exchange.check_declared(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientGoneError:
            exchange.status = 499
        except ServiceError as error:
            await exchange.drain()
            await exchange.fail(error)
        except Exception:  # the outermost place: the log has the reason, the client only learns that it failed
            _log.exception("A request failed")
            await exchange.fail(internal())
        finally:
            route, metrics = _route(scope["path"]), self._service.metrics
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.requests.labels(route, method, str(exchange.status or 499)).inc()
            metrics.seconds.labels(route).observe(time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        headers, path, service = dict(scope["headers"]), scope["path"], self._service
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if service.hosts is not None and _host_name(host) not in service.hosts:
            raise ServiceError(421, "host", "Unknown host name; add it with --allow-host.")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and _origin_host(origin) != host:
            raise ServiceError(403, "origin", "Pages of other sites may not call this service.")
        admitted = service.key is None or service.key.admits(headers.get(b"authorization", b""))
        if path.startswith("/v1/") and not admitted:
            message = "A valid key is required, as the header Authorization: Bearer KEY."
            raise ServiceError(401, "key", message, {"WWW-Authenticate": "Bearer"})
        expected = _CONTENT_TYPES.get(path)
        if expected is None or scope["method"] != "POST":
            return
        if not service.batcher.accepting:
            raise stopping()
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != expected:
            raise ServiceError(415, "content_type", f"The body must be {expected.decode()}.")


class _Exchange:
    """Receives a body within its limits of size and time, and sends a response with the common headers."""

    def __init__(self, receive: Receive, send: Send, limits: ServiceLimits, scope: Scope) -> None:
        self._receive, self._send, self._max_bytes = receive, send, limits.body_bytes(scope["path"])
        self._deadline: float | None = time.monotonic() + limits.upload_seconds  # None once the body is complete
        self._error: ServiceError | ClientGoneError | None = None  # of the body, whatever its parser reported
        self._received, self.status = 0, 0

    def check_declared(self, scope: Scope) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:18]) > self._max_bytes:
            self._fail_size()

    def _fail_size(self) -> NoReturn:
        self._error = ServiceError(413, "too_large", f"The request exceeds {self._max_bytes:,} bytes.")
        raise self._error

    async def receive(self) -> Message:
        if self._deadline is None:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            self._error = ServiceError(408, "slow", "The request did not arrive in time.")
            raise self._error from None
        if message["type"] == "http.disconnect":
            self._error = ClientGoneError()
            raise self._error
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            self._fail_size()
        if not message.get("more_body", False):
            self._deadline = None
        return message

    async def drain(self) -> None:
        """Read on for a moment: a client that is still sending when its connection ends never sees the response."""
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._deadline is not None and drained < _DRAIN_BYTES:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self._deadline = None

    async def send(self, message: Message) -> None:
        """Send the next message; an error of the request's body takes precedence over this response."""
        if message["type"] == "http.response.start":
            if self._error is not None:
                raise self._error
            await self._start(message["status"], message.get("headers", []))
            return
        await self._send(message)

    async def _start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})

    async def fail(self, error: ServiceError) -> None:
        """Send the error, unless a response has begun, which then stays incomplete."""
        if self.status:
            return
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", _JSON), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self._start(error.status, headers)
        await self._send({"type": "http.response.body", "body": body})


def _route(path: str) -> str:
    """The path's label in metrics; unknown paths share one, as each label takes memory forever."""
    if path in _ROUTES:
        return path
    return next((prefix for prefix in _PREFIXES if path.startswith(prefix)), "other")


def _host_name(host: str) -> str:
    """`localhost` of `localhost:8000`, `::1` of `[::1]:8000`."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def bounded_connection(unread_seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol, which also aborts connections whose client reads nothing for `unread_seconds`.

    Only the connection sees that: when a deadline ends the work on a response, what was written stays in its buffer.
    """

    class Connection(H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._timer: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._cancel_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():  # once its buffer is empty
                self._watch()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._cancel_timer()

        def _watch(self) -> None:
            self._cancel_timer()
            unread = self.transport.get_write_buffer_size()
            if unread:
                self._timer = self.loop.call_later(unread_seconds, self._abort_unless_read, unread)

        def _abort_unless_read(self, before: int) -> None:
            """Nothing is added to a watched buffer: it is full, or the connection is closing."""
            if self.transport.get_write_buffer_size() >= before:
                self.transport.abort()
            else:
                self._watch()

        def _cancel_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection
