"""Errors of a request as the client sees them: an HTTP status, a short code, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping


class ServiceError(Exception):
    """A failed request: a `code` for programs, one sentence for people without paths or messages of other libraries."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def body(self) -> dict[str, dict[str, str]]:
        """The JSON of the response."""
        return {"error": {"message": self.message, "code": self.code}}


class ClientGoneError(Exception):
    """The client closed its connection before the response was complete, or does not read it."""


def stopping() -> ServiceError:
    """503: no new work is accepted."""
    return ServiceError(503, "stopping", "The service is shutting down.", {"Retry-After": "5"})


def deadline_exceeded(seconds: float) -> ServiceError:
    """504, after `seconds`."""
    return ServiceError(504, "deadline", f"The response was not ready within {seconds:g} s; request fewer images.")


def internal() -> ServiceError:
    """500: the reason is in the log only."""
    return ServiceError(500, "internal", "The service failed on this request; see its log.")


def invalid(message: str) -> ServiceError:
    """422: a value that does not fit this model."""
    return ServiceError(422, "invalid", message)


def not_found(message: str) -> ServiceError:
    """404."""
    return ServiceError(404, "not_found", message)


def image_too_large(max_bytes: int) -> ServiceError:
    """413: an image file of too many bytes."""
    return ServiceError(413, "too_large", f"The image exceeds {max_bytes:,} bytes.")
