"""The errors of a route as its OpenAPI page shows them."""

from __future__ import annotations

from typing import Any

from alitok.serve.schemas import FaultAnswer

_MEANINGS = {
    401: "No valid key.",
    403: "A page of another site asks.",
    404: "There is no such thing.",
    408: "The request did not arrive in time.",
    413: "The body, or a picture in it, is too large.",
    415: "The body, or a picture in it, is of another kind.",
    422: "Something in the request does not fit.",
    429: "Too much is waiting; Retry-After says when to come back.",
    500: "The service failed.",
    503: "The service is stopping.",
    504: "The answer was not ready in time.",
}


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these statuses."""
    return {status: {"model": FaultAnswer, "description": _MEANINGS[status]} for status in statuses}
