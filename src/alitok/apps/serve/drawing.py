"""Routes that draw: whole images in one answer, or rows as they come in server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from alitok.apps.serve.batcher import Places
from alitok.apps.serve.documented import KEYED, faults
from alitok.apps.serve.faults import ClientGoneError, ServiceError, internal, too_late, unusable
from alitok.apps.serve.schemas import DrawnImage, ImagesAnswer, ImagesRequest, Wanted
from alitok.apps.serve.service import Service, service_of
from alitok.apps.serve.uploads import ImageFormat, encoded, from_base64
from alitok.apps.serve.waiting import Drawing, Finished, Row
from alitok.core.errors import AlitokError
from alitok.sampling import SampleRequest, SamplingOverrides
from alitok.sampling.synthesize import first_rows

router = APIRouter(tags=["images"], dependencies=KEYED)
_log = logging.getLogger(__name__)
_SEEDS = 2**32  # that the service draws from
_QUIET_SECONDS = 15.0  # after which a waiting stream says that it is still there
_SETTINGS = tuple(item.name for item in fields(SamplingOverrides))
_EVENTS = """event: start
data: {"images": [{"class": "0", "label": 0, "seed": 7, "index": 0}], "rows": 4}

event: row
data: {"image": 0, "row": 0, "data": "iVBORw0KGgo..."}

event: image
data: {"image": 0, "data": "iVBORw0KGgo...", "format": "png"}

event: done
data: {}
"""


@dataclass(frozen=True)
class _Order:
    """What a request asks for: one entry per image in each."""

    requests: list[SampleRequest]
    wanted: list[Wanted]


@router.post(
    "/v1/images",
    response_model=ImagesAnswer,
    summary="Draw images",
    responses=faults(401, 408, 413, 415, 422, 429, 503, 504),
)
async def draw(body: ImagesRequest, request: Request) -> Any:
    """Draw images of the classes asked for.

    Image i has the random numbers (seed, i) and is the same whenever they, its class and its settings are the same,
    whoever else is served.
    """
    service = service_of(request)
    return await service.in_time(request, _drawn(service, body))


async def _drawn(service: Service, body: ImagesRequest) -> ImagesAnswer:
    order = _order(service, body)
    with service.batcher.places(len(order.requests)) as places:
        drawing = places.submit(await _begun(service, body, order, places))
    images: list[str] = [""] * len(order.requests)
    try:
        while not drawing.finished:
            event = await drawing.next()
            if isinstance(event, Finished):
                images[event.index] = await asyncio.to_thread(encoded, event.image, body.format)
    finally:
        service.batcher.cancel(drawing)
    return ImagesAnswer(
        images=[
            DrawnImage(**wanted.model_dump(), format=body.format, data=data)
            for wanted, data in zip(order.wanted, images, strict=True)
        ]
    )


@router.post(
    "/v1/images/stream",
    summary="Draw images and watch their rows",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Server-sent events.", "content": {"text/event-stream": {"example": _EVENTS}}},
        **faults(401, 408, 413, 415, 422, 429, 503, 504),
    },
)
async def stream(body: ImagesRequest, request: Request) -> StreamingResponse:
    """Draw the same images as `/v1/images`, with each row of patches as soon as it is there.

    Rows come from the first decoder, finished images from the last. `rows` in `start` is 0 where the first decoder is
    not causal: then there are finished images alone. What goes wrong after the start is an `error` event.
    """
    service, began = service_of(request), time.monotonic()
    order = _order(service, body)
    with service.batcher.places(len(order.requests)) as places:
        requests = await service.in_time(request, _begun(service, body, order, places))
        drawing = places.submit(requests, rows=service.model.draws_rows)
    deadline = began + service.limits.deadline_seconds
    events = _events(service, drawing, order.wanted, body.format, deadline)
    return _EventStream(service, drawing, events, deadline + service.limits.unread_seconds)


class _EventStream(StreamingResponse):
    """An answer after which, however it ends, its drawing's places are free."""

    def __init__(self, service: Service, drawing: Drawing, events: AsyncIterator[bytes], until: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._service, self._drawing, self._until = service, drawing, until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._until - time.monotonic()):  # the events end before, if they are read
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ClientGoneError from None
        finally:
            self._service.batcher.cancel(self._drawing)


async def _events(
    service: Service, drawing: Drawing, wanted: list[Wanted], kind: ImageFormat, deadline: float
) -> AsyncIterator[bytes]:
    """The stream's text."""
    grid = service.model.pipeline.tokenizer.config.grid
    images = [each.model_dump(by_alias=True) for each in wanted]
    yield _event("start", {"images": images, "rows": grid if drawing.rows else 0})
    try:
        while not drawing.finished:
            left = deadline - time.monotonic()
            if left <= 0:
                raise too_late(service.limits.deadline_seconds)
            event = await drawing.next(min(left, _QUIET_SECONDS))
            yield b": still waiting\n\n" if event is None else await _told(event, kind)
        yield _event("done", {})
    except ServiceError as error:
        yield _event("error", {"message": error.message})
    except Exception:  # the status is sent already: the client is told in the stream, the log knows what it was
        _log.exception("A stream failed")
        yield _event("error", {"message": internal().message})


async def _told(event: Row | Finished, kind: ImageFormat) -> bytes:
    if isinstance(event, Row):
        data = await asyncio.to_thread(encoded, event.strip)
        return _event("row", {"index": event.index, "row": event.row, "data": data})
    data = await asyncio.to_thread(encoded, event.image, kind)
    return _event("image", {"index": event.index, "data": data, "format": kind})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _order(service: Service, body: ImagesRequest) -> _Order:
    """The requests behind a body, but for the rows that a completion gives.

    Raises:
        ServiceError: something in it does not fit the model or the service's bounds.
    """
    most = service.limits.most_images
    if len(body.classes) * body.count > most:
        raise unusable(f"At most {most} images can be asked for at a time, not {len(body.classes) * body.count}.")
    seed = secrets.randbelow(_SEEDS) if body.seed is None else body.seed
    pipeline, names = service.model.pipeline, service.model.classes
    asked = [name for name in body.classes for _ in range(body.count)]
    try:
        sampling = SamplingOverrides(**{name: getattr(body, name) for name in _SETTINGS}).apply_to(pipeline.sampling)
        requests = pipeline.requests(asked, seed=seed, sampling=sampling)
    except AlitokError as error:
        raise unusable(str(error)) from None
    grid = pipeline.tokenizer.config.grid
    if body.completion is not None and body.completion.rows > grid:
        rows = body.completion.rows
        raise unusable(f"rows must be within 0 to {grid}, the rows of patches of an image, not {rows}.")
    wanted = [
        Wanted.model_validate({"class": names[each.label], "label": each.label, "seed": each.seed, "index": each.index})
        for each in requests
    ]
    return _Order(requests, wanted)


async def _begun(service: Service, body: ImagesRequest, order: _Order, places: Places) -> list[SampleRequest]:
    """The order's requests with the rows that are kept, if any."""
    if body.completion is None:
        return order.requests
    tokenizer, rows = service.model.pipeline.tokenizer, body.completion.rows
    square = await service.square(from_base64(body.completion.image, service.limits))
    given = await places.call(lambda: first_rows(tokenizer, square, rows))
    return [replace(request, given=given) for request in order.requests]
