"""What stands before every route: who may call, how much may be sent and how slowly, what no answer may tell, counts.

Plain ASGI, so that it sees each message once and costs little.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alitok.apps.serve.faults import ClientGoneError, ServiceError, internal, stopping
from alitok.apps.serve.limits import ServiceLimits
from alitok.apps.serve.service import Service

_log = logging.getLogger(__name__)
POLICY = (  # of content: the page's own files, and nothing else
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 64 << 20
_JSON, _FORM = b"application/json", b"multipart/form-data"
_BODIES = {
    "/v1/images": _JSON,
    "/v1/images/stream": _JSON,
    "/v1/decode": _JSON,
    "/v1/encode": _FORM,
    "/v1/reconstruct": _FORM,
}
_KNOWN = {*_BODIES, "/", "/healthz", "/metrics", "/openapi.json", "/v1/models", "/v1/run"}
_FOLDERS = ("/static/", "/v1/run/images/")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


class Guard:
    """An ASGI application around the service's own.

    Args:
        app: the routes.
        service: whose key, hosts, bounds and counters hold.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; everything that is not HTTP is the application's own affair."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, body = time.monotonic(), _Body(receive, self._service.limits, scope)
        answer = _Answer(send, body)
        try:
            self._check(scope)
            body.check_declared(scope)
            await self._app(scope, body.receive, answer.send)
        except ClientGoneError:
            answer.status = 499
        except ServiceError as error:
            await body.drain()
            await answer.fail(error)
        except Exception:  # the outermost place: the log knows what it was, the client only that it failed
            _log.exception("A request failed")
            await answer.fail(internal())
        finally:
            route, numbers = _route(scope["path"]), self._service.numbers
            method = scope["method"] if scope["method"] in _METHODS else "other"
            numbers.requests.labels(route, method, str(answer.status or 499)).inc()
            numbers.seconds.labels(route).observe(time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = _name(headers.get(b"host", b"").decode("latin-1"))
        hosts = self._service.settings.hosts
        if hosts is not None and host not in hosts:
            raise ServiceError(421, "host", "The service is not known by this name; see its --allow-host.")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and _split(origin).lower() != headers.get(b"host", b"").decode("latin-1").lower():
            raise ServiceError(403, "origin", "Pages of other sites may not call this service.")
        path, wanted = scope["path"], _BODIES.get(scope["path"])
        if path.startswith("/v1/") and not self._service.admits(headers.get(b"authorization", b"")):
            message = "A valid key is needed, as the header Authorization: Bearer KEY."
            raise ServiceError(401, "key", message, {"WWW-Authenticate": "Bearer"})
        if wanted is None or scope["method"] != "POST":
            return
        if not self._service.batcher.accepting:
            raise stopping()
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != wanted:
            raise ServiceError(415, "content_type", f"The body must be {wanted.decode()}.")


class _Body:
    """Receives a body within its bounds of size and time; afterwards waits for the client to leave.

    Attributes:
        fault: what was wrong with it; whoever reads bodies may have taken it for something else.
    """

    def __init__(self, receive: Receive, limits: ServiceLimits, scope: Scope) -> None:
        self._receive, self._most, self._taken = receive, limits.body_bytes(scope["path"]), 0
        self._until: float | None = time.monotonic() + limits.upload_seconds
        self.fault: ServiceError | ClientGoneError | None = None

    def check_declared(self, scope: Scope) -> None:
        """Refuse a body that says itself that it is too large.

        Raises:
            ServiceError: it does.
        """
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:18]) > self._most:
            self._refuse_size()

    def _refuse_size(self) -> NoReturn:
        self.fault = ServiceError(413, "too_large", f"The request has more than {self._most:,} bytes.")
        raise self.fault

    async def receive(self) -> Message:
        """The next message.

        Raises:
            ServiceError: the body is too large, or late.
            ClientGoneError: the client left before it was whole.
        """
        if self._until is None:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            self.fault = ServiceError(408, "slow", "The request did not arrive in time.")
            raise self.fault from None
        if message["type"] == "http.disconnect":
            self.fault = ClientGoneError()
            raise self.fault
        self._taken += len(message.get("body", b""))
        if self._taken > self._most:
            self._refuse_size()
        if not message.get("more_body", False):
            self._until = None
        return message

    async def drain(self) -> None:
        """Read on for a moment: a client that is still sending when its connection ends never sees the answer."""
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._until is not None and taken < _DRAIN_BYTES:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self._until = None


class _Answer:
    """Passes an answer on with the headers that all have; remembers its status."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body = send, body
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send the next message.

        Raises:
            ServiceError: the body was at fault, and this would be another answer.
            ClientGoneError: likewise.
        """
        if message["type"] == "http.response.start":
            if self._body.fault is not None:
                raise self._body.fault
            await self._start(message["status"], message.get("headers", []))
            return
        await self._send(message)

    async def _start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})

    async def fail(self, error: ServiceError) -> None:
        """Tell the error, unless an answer has begun; then it stays unfinished, as nothing else can be said."""
        if self.status:
            return
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", _JSON), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self._start(error.status, headers)
        await self._send({"type": "http.response.body", "body": body})


def _route(path: str) -> str:
    """The path as it is counted: unknown ones share a name, as each would take memory for ever."""
    if path in _KNOWN:
        return path
    return next((folder for folder in _FOLDERS if path.startswith(folder)), "other")


def _name(host: str) -> str:
    """`localhost` of `localhost:8000`, `::1` of `[::1]:8000`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _split(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
