"""The options of `alitok serve`, the limits of the service, and its access key."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.core.config import require_at_least
from alitok.core.errors import AlitokError

_MIB = 1 << 20
_MAX_DECODE_BODY = 4 * _MIB  # JSON takes many times its size in memory, and codes are small
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_NO_OPTION = Parameter(parse=False)  # set from Python only


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """Bounds of one request, of the queue, and of time; `max_uploads` is lowered to `max_waiting`.

    Raises:
        AlitokError: a bound is out of range, or the queue is smaller than the largest request.
    """

    max_images: int = 64
    """Images per request."""
    max_waiting: int = 256
    """Images that may wait over all requests, at least --max-images; further requests get a 429."""
    deadline_seconds: float = 120.0
    """Time limit of a response."""
    stop_seconds: float = 60.0
    """Time that running work gets to finish at shutdown."""
    max_uploads: Annotated[int, _NO_OPTION] = 16
    """Image files per request."""
    max_upload_bytes: Annotated[int, _NO_OPTION] = 16 * _MIB
    """Size of an image file."""
    max_upload_pixels: Annotated[int, _NO_OPTION] = 25_000_000
    """Pixels of an image file, read from its header."""
    max_body_bytes: Annotated[int, _NO_OPTION] = 32 * _MIB
    """Size of a request body."""
    max_connections: Annotated[int, _NO_OPTION] = 512
    """Simultaneous connections."""
    upload_seconds: Annotated[float, _NO_OPTION] = 30.0
    """Time limit for receiving a request body."""
    unread_seconds: Annotated[float, _NO_OPTION] = 60.0
    """Time after which a client that reads nothing of its response is disconnected."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_images", "max_waiting", "max_uploads", "max_upload_pixels", "max_connections")
        require_at_least(self, 1024, "max_upload_bytes", "max_body_bytes")
        for name in ("upload_seconds", "deadline_seconds", "unread_seconds", "stop_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise AlitokError(f"{name} must be positive and finite, not {getattr(self, name)}.")
        if self.max_waiting < self.max_images:
            raise AlitokError(f"max_waiting must be at least max_images, {self.max_images}, not {self.max_waiting}.")
        object.__setattr__(self, "max_uploads", min(self.max_uploads, self.max_waiting))

    def body_bytes(self, path: str) -> int:
        """The largest body of a request to `path`."""
        return min(_MAX_DECODE_BODY, self.max_body_bytes) if path == "/v1/decode" else self.max_body_bytes


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve a model."""

    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 is reachable from this machine only, 0.0.0.0 from everywhere."""
    port: int = 8000
    """Port to listen on; 0 picks a free one, which is printed."""
    run: Path | None = None
    """Training run directory whose curves and images the page shows."""
    key_file: Path | None = None
    """File with one line, the key that clients must send."""
    allow_hosts: Annotated[
        tuple[str, ...], Parameter(name="--allow-host", negative="", consume_multiple=True, show_default=False)
    ] = ()
    """Further host names of the service, such as that of a proxy. On 127.0.0.1 it answers only to its own names and
    these; on other addresses to any name unless some are given."""
    batch_size: int | None = None
    """Images per batch; by default 64 on a GPU and 32 elsewhere, or what fits into memory."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Precision of the generator; bf16 and int8 (CPU only) are faster and not exact."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Device to run on."""
    replicas: int | None = None
    """Number of Ray Serve replicas, each a process with its own model, on several GPUs or machines; needs the extra
    `ray`."""
    gpus_per_replica: float | None = None
    """GPUs of a replica, a fraction if several share one; by default 1, or 0 if there are no GPUs."""
    cluster: str | None = None
    """Address of a Ray cluster for the replicas, or `auto` for this machine's; by default they run on this machine
    alone. All machines must find the model under the same name."""
    limits: ServiceLimits = field(default_factory=ServiceLimits)

    def __post_init__(self) -> None:
        require_at_least(self, 1, *(name for name in ("batch_size", "replicas") if getattr(self, name) is not None))

    def read_key(self) -> AccessKey | None:
        """The key that clients must send, if any; errors are those of `AccessKey.from_file`."""
        return None if self.key_file is None else AccessKey.from_file(self.key_file)

    @property
    def is_local(self) -> bool:
        """Whether the address is reachable from this machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def accepted_hosts(self) -> frozenset[str] | None:
        """Host names that the service answers to, in lower case; None = any."""
        if not self.is_local and not self.allow_hosts:
            return None
        return frozenset(name.lower() for name in (*_LOOPBACK_NAMES, self.host, *self.allow_hosts))


@dataclass(frozen=True)
class AccessKey:
    """The key sent as `Authorization: Bearer KEY`; `AlitokError` if it does not fit in a header or is too short."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch("[!-~]{8,256}", self.text):
            raise AlitokError("A key must be 8 to 256 printable ASCII characters without spaces.")

    @classmethod
    def from_file(cls, path: Path) -> AccessKey:
        """Read a file with one nonempty line, the key; `AlitokError` if it is unreadable or holds more or fewer."""
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or "").lower() if isinstance(error, OSError) else "not a text file"
            raise AlitokError(f"Cannot read the key file {path}: {reason}. Write a key into it, in one line.") from None
        keys = [line.strip() for line in lines if line.strip()]
        if len(keys) != 1:
            raise AlitokError(f"The key file {path} must hold one line, the key, and holds {len(keys)}.")
        return cls(keys[0])

    def admits(self, authorization: bytes) -> bool:
        """Whether an Authorization header holds the key, compared in constant time."""
        scheme, _, key = authorization.partition(b" ")
        same = hmac.compare_digest(hashlib.sha256(key.strip()).digest(), hashlib.sha256(self.text.encode()).digest())
        return same and scheme.lower() == b"bearer"
