"""What the service takes on: sizes, numbers and times, each with a bound."""

from __future__ import annotations

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError

_MIB = 1 << 20
_CODES_BYTES = 4 * _MIB  # of a body that holds codes alone


@config
class ServiceLimits:
    """Bounds of one request, of all that wait, and of time.

    Attributes:
        most_images: images that one request draws or decodes.
        most_waiting: images and other pieces of work that wait for the model, over all requests; room for the largest
            request, which could else never be taken.
        most_uploads: image files in one request.
        most_upload_bytes: bytes of one image file.
        most_upload_pixels: pixels of one image file, by its header.
        most_body_bytes: bytes of a whole request.
        most_connections: clients connected at a time.
        upload_seconds: in which a request's body must have arrived.
        deadline_seconds: in which an answer must be ready.
        unread_seconds: for which a client may take nothing of what was sent to it.
        stop_seconds: that running work gets when the service is asked to stop.
    """

    most_images: int = 64
    most_waiting: int = 256
    most_uploads: int = 16
    most_upload_bytes: int = 16 * _MIB
    most_upload_pixels: int = 25_000_000
    most_body_bytes: int = 32 * _MIB
    most_connections: int = 512
    upload_seconds: float = 30.0
    deadline_seconds: float = 120.0
    unread_seconds: float = 60.0
    stop_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse bounds that let nothing through, or not what others allow."""
        counts = ("most_images", "most_waiting", "most_uploads", "most_upload_pixels", "most_connections")
        require_at_least(self, 1, *counts)
        require_at_least(self, 1024, "most_upload_bytes", "most_body_bytes")
        for name in ("upload_seconds", "deadline_seconds", "unread_seconds", "stop_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise AlitokError(f"{name} must be a time above 0, not {getattr(self, name)}")
        for name in ("most_images", "most_uploads"):
            if self.most_waiting < getattr(self, name):
                wanted = getattr(self, name)
                raise AlitokError(f"most_waiting must be at least {name}, {wanted}, not {self.most_waiting}")

    def body_bytes(self, path: str) -> int:
        """The most bytes of a request to `path`; codes are small, and JSON takes many times its size in memory."""
        return min(_CODES_BYTES, self.most_body_bytes) if path == "/v1/decode" else self.most_body_bytes
