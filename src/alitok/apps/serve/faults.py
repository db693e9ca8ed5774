"""What goes wrong with a request, as the client is told: a status, a short word, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping


class ServiceError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        code: a short word for programs.
        message: one sentence for people, free of paths and of what the machine said.
        headers: that go with the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def body(self) -> dict[str, dict[str, str]]:
        """The answer's JSON."""
        return {"error": {"message": self.message, "code": self.code}}


class ClientGoneError(Exception):
    """The client closed its connection before it had the answer, or does not read it; nobody is left to be told."""


def queue_full(seconds: int) -> ServiceError:
    """There is no place left; one may be free in so many seconds."""
    return ServiceError(429, "busy", "Too many images are waiting.", {"Retry-After": str(seconds)})


def stopping() -> ServiceError:
    """The service takes no new work."""
    return ServiceError(503, "stopping", "The service is stopping and takes no new work.", {"Retry-After": "5"})


def too_late(seconds: float) -> ServiceError:
    """The deadline has passed."""
    return ServiceError(504, "deadline", f"The answer was not ready within {seconds:g} s; ask for fewer images.")


def internal() -> ServiceError:
    """Something failed that the client cannot mend; the log says what."""
    return ServiceError(500, "internal", "The service failed on this request; its log says more.")


def unusable(message: str) -> ServiceError:
    """A value in the request that does not fit this model."""
    return ServiceError(422, "invalid", message)
