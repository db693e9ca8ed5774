"""The key and the errors of a route as its OpenAPI page shows them."""

from __future__ import annotations

from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer

from alitok.apps.serve.schemas import FaultAnswer

_MEANINGS = {
    401: "No valid key.",
    403: "A page of another site asks.",
    404: "There is no such thing.",
    408: "The request did not arrive in time.",
    413: "The body, or an image in it, is too large.",
    415: "The body, or an image in it, is of another kind.",
    421: "The service is called by a name that is not its own.",
    422: "Something in the request does not fit.",
    429: "Too much is waiting; Retry-After says when to come back.",
    500: "The service failed.",
    503: "The service is stopping, or its worker has ended.",
    504: "The answer was not ready in time.",
}


_ALWAYS = (403, 421, 500)  # whatever the route: what stands before all of them, and what nobody foresaw
# Told alone: the guard asks for the key, before a route is looked for.
KEYED = [
    Security(HTTPBearer(auto_error=False, scheme_name="key", description="The service's key, where it asks for one."))
]


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these statuses and those that every route has."""
    return {
        status: {"model": FaultAnswer, "description": _MEANINGS[status]} for status in sorted({*statuses, *_ALWAYS})
    }
