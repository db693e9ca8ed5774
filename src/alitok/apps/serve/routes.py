"""Routes that use the model: generation, whole or streamed row by row, and encoding and decoding of images."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields, replace
from functools import partial, wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import numpy as np
from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from alitok.apps.serve import schemas
from alitok.apps.serve.batcher import FinishedImage, ImageJob, ImageRow, Reservation
from alitok.apps.serve.errors import (
    ClientGoneError,
    ServiceError,
    deadline_exceeded,
    image_too_large,
    internal,
    invalid,
)
from alitok.apps.serve.model import DIFFERENCE_SCALE
from alitok.apps.serve.service import Service, service_of
from alitok.apps.serve.uploads import ImageFormat, from_base64, to_base64
from alitok.core.errors import AlitokError
from alitok.data.crops import to_array
from alitok.sampling import SampleRequest, SamplingOverrides
from alitok.sampling.synthesize import first_rows

P = ParamSpec("P")
Result = TypeVar("Result")

router = APIRouter(dependencies=schemas.REQUIRES_KEY)
_log = logging.getLogger(__name__)
_SEEDS = 2**32  # that the service chooses from
_KEEPALIVE_SECONDS = 15.0
_ERRORS = schemas.error_responses(401, 408, 413, 415, 422, 429, 503, 504)
_SETTINGS = tuple(field.name for field in fields(SamplingOverrides))
_EVENTS = """event: start
data: {"images": [{"class": "0", "label": 0, "seed": 7, "index": 0}], "rows": 4}

event: row
data: {"index": 0, "row": 0, "data": "iVBORw0KGgo..."}

event: image
data: {"index": 0, "data": "iVBORw0KGgo...", "format": "png"}

event: done
data: {}
"""


def _in_time(route: Callable[P, Awaitable[Result]]) -> Callable[P, Awaitable[Result]]:
    """Cancel a route's work when its client disconnects or the deadline passes."""

    @wraps(route)
    async def limited(*arguments: P.args, **named: P.kwargs) -> Result:
        request = named["request"]
        assert isinstance(request, Request)
        seconds = service_of(request).limits.deadline_seconds
        task, gone = asyncio.ensure_future(route(*arguments, **named)), asyncio.ensure_future(_disconnected(request))
        try:
            done, _ = await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task in done:
                return task.result()
            raise ClientGoneError if gone in done else deadline_exceeded(seconds)
        finally:
            for each in (task, gone):
                each.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    return limited


async def _disconnected(request: Request) -> None:
    """Wait until the client disconnects; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post("/v1/images", tags=["images"], summary="Generate images", responses=_ERRORS)
@_in_time
async def generate(body: schemas.ImagesRequest, request: Request) -> schemas.ImagesResponse:
    """Generate images of the given classes.

    Image i uses the random numbers (seed, i); with the same class and settings it is always the same, whatever other
    requests are served.
    """
    service = service_of(request)
    requests = _sample_requests(service, body)
    with service.batcher.reserve(len(requests)) as reservation:
        job = reservation.submit(await _with_given_rows(service, body, requests, reservation))
    data = [""] * len(requests)
    try:
        while not job.finished:
            event = await job.next()
            if isinstance(event, FinishedImage):
                data[event.index] = await asyncio.to_thread(to_base64, event.image, body.format)
    finally:
        service.batcher.cancel(job)
    labels = (_label(service, request) for request in requests)
    images = [{**label, "format": body.format, "data": text} for label, text in zip(labels, data, strict=True)]
    return schemas.ImagesResponse.model_validate({"images": images})


@router.post(
    "/v1/images/stream",
    tags=["images"],
    summary="Generate images and stream their rows",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Server-sent events.", "content": {"text/event-stream": {"example": _EVENTS}}},
        **_ERRORS,
    },
)
@_in_time
async def stream(body: schemas.ImagesRequest, request: Request) -> StreamingResponse:
    """Generate the same images as `/v1/images`, and send each row of patches as soon as it is decoded.

    Rows come from the stage-1 decoder, finished images from the last one. If the stage-1 decoder is not causal, `rows`
    in `start` is 0 and only finished images are sent. An error after the start is an `error` event.
    """
    service, began = service_of(request), time.monotonic()
    requests = _sample_requests(service, body)
    with service.batcher.reserve(len(requests)) as reservation:
        requests = await _with_given_rows(service, body, requests, reservation)
        job = reservation.submit(requests, rows=service.model.streams_rows)
    deadline = began + service.limits.deadline_seconds
    labels = [_label(service, each) for each in requests]
    events = _events(service, job, labels, body.format, deadline)
    return _EventStream(service, job, events, deadline + service.limits.unread_seconds)


class _EventStream(StreamingResponse):
    """A response that cancels its job however it ends."""

    def __init__(self, service: Service, job: ImageJob, events: AsyncIterator[bytes], deadline: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._service, self._job, self._deadline = service, job, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):  # the events end earlier if they are read
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ClientGoneError from None
        finally:
            self._service.batcher.cancel(self._job)


async def _events(
    service: Service, job: ImageJob, labels: list[dict[str, Any]], format: ImageFormat, deadline: float
) -> AsyncIterator[bytes]:
    rows = service.model.pipeline.tokenizer.config.grid if job.rows else 0
    yield _event("start", {"images": labels, "rows": rows})
    try:
        while not job.finished:
            left = deadline - time.monotonic()
            if left <= 0:
                raise deadline_exceeded(service.limits.deadline_seconds)
            event = await job.next(min(left, _KEEPALIVE_SECONDS))
            if event is None:
                yield b": still waiting\n\n"
            elif isinstance(event, ImageRow):
                strip = await asyncio.to_thread(to_base64, event.strip)
                yield _event("row", {"index": event.index, "row": event.row, "data": strip})
            else:
                image = await asyncio.to_thread(to_base64, event.image, format)
                yield _event("image", {"index": event.index, "data": image, "format": format})
        yield _event("done", {})
    except ServiceError as error:
        yield _event("error", {"message": error.message})
    except Exception:  # the status has been sent: the log has the reason, the client only learns that it failed
        _log.exception("A stream failed")
        yield _event("error", {"message": internal().message})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _sample_requests(service: Service, body: schemas.ImagesRequest) -> list[SampleRequest]:
    """One request per image, without the rows of a completion."""
    count, max_images = len(body.classes) * body.count, service.limits.max_images
    if count > max_images:
        raise invalid(f"At most {max_images} images are allowed per request, not {count}.")
    pipeline = service.model.pipeline
    grid = pipeline.tokenizer.config.grid
    if body.completion is not None and body.completion.rows > grid:
        raise invalid(f"rows must be 0 to {grid}, the rows of patches of an image, not {body.completion.rows}.")
    try:
        return pipeline.requests(
            [name for name in body.classes for _ in range(body.count)],
            seed=secrets.randbelow(_SEEDS) if body.seed is None else body.seed,
            sampling=SamplingOverrides(**{name: getattr(body, name) for name in _SETTINGS}).apply_to(pipeline.sampling),
        )
    except AlitokError as error:
        raise invalid(str(error)) from None


def _label(service: Service, request: SampleRequest) -> dict[str, Any]:
    """What determines an image, as in `schemas.GeneratedImage`."""
    name = service.model.classes[request.label]
    return {"class": name, "label": request.label, "seed": request.seed, "index": request.index}


async def _with_given_rows(
    service: Service, body: schemas.ImagesRequest, requests: list[SampleRequest], reservation: Reservation
) -> list[SampleRequest]:
    if body.completion is None:
        return requests
    tokenizer, rows = service.model.pipeline.tokenizer, body.completion.rows
    image = await service.read_image(from_base64(body.completion.image, service.limits))
    given = await reservation.call(lambda: first_rows(tokenizer, image, rows))
    return [replace(request, given=given) for request in requests]


@router.post("/v1/reconstruct", tags=["codes"], summary="Reconstruct an image", responses=_ERRORS)
@_in_time
async def reconstruct(
    image: Annotated[UploadFile, File(description="An image file.")], request: Request
) -> schemas.ReconstructResponse:
    """Encode an image and decode it again with each of the model's decoders.

    The image is resized and center-cropped; PSNR is measured against that crop, in dB.
    """
    service = service_of(request)
    config = service.model.pipeline.tokenizer.config
    with service.batcher.reserve(1) as reservation:
        original = await _read_upload(service, image)
        codes, images, psnr = await reservation.call(partial(service.model.reconstruct, original))
    files = {name: await asyncio.to_thread(to_base64, pixels) for name, pixels in images.items()}
    return schemas.ReconstructResponse(
        **files,
        difference_scale=DIFFERENCE_SCALE,
        psnr=schemas.Psnr(**psnr),
        codes=codes,
        grid=config.grid,
        prefix=config.prefix_length,
        codebook_size=config.codebook_size,
    )


@router.post("/v1/encode", tags=["codes"], summary="Encode images", responses=_ERRORS)
@_in_time
async def encode(
    image: Annotated[list[UploadFile], File(description="Image files.")], request: Request
) -> schemas.EncodeResponse:
    """Encode one or several images, each resized and center-cropped."""
    service = service_of(request)
    if len(image) > service.limits.max_uploads:
        raise invalid(f"At most {service.limits.max_uploads} uploads are allowed per request, not {len(image)}.")
    with service.batcher.reserve(len(image)) as reservation:
        images = [await _read_upload(service, upload) for upload in image]
        codes = await reservation.call_each(partial(service.model.encode, each) for each in images)
    config = service.model.pipeline.tokenizer.config
    return schemas.EncodeResponse(
        codes=codes, image_size=config.image_size, grid=config.grid, prefix=config.prefix_length
    )


async def _read_upload(service: Service, upload: UploadFile) -> np.ndarray:
    """(3, h, h) uint8 of an uploaded file, whose name is never used."""
    if (upload.size or 0) > service.limits.max_upload_bytes:
        raise image_too_large(service.limits.max_upload_bytes)
    return to_array(await service.read_image(await upload.read()))


@router.post("/v1/decode", tags=["codes"], summary="Decode codes", responses=_ERRORS)
@_in_time
async def decode(body: schemas.DecodeRequest, request: Request) -> schemas.DecodeResponse:
    """Decode sequences of codes by one of the model's decoders."""
    service = service_of(request)
    config, max_images = service.model.pipeline.tokenizer.config, service.limits.max_images
    if len(body.codes) > max_images:
        raise invalid(f"At most {max_images} images are allowed per request, not {len(body.codes)}.")
    if any(len(codes) != config.sequence_length for codes in body.codes):
        raise invalid(f"An image of this model has {config.sequence_length} codes.")
    if any(not 0 <= code < config.codebook_size for codes in body.codes for code in codes):
        raise invalid(f"Codes must be 0 to {config.codebook_size - 1}.")
    if body.stage is not None and body.stage not in service.model.pipeline.tokenizer.stages:
        raise invalid(f"This model has no {body.stage} decoder.")
    with service.batcher.reserve(len(body.codes)) as reservation:
        images = await reservation.call_each(partial(service.model.decode, codes, body.stage) for codes in body.codes)
    files = [await asyncio.to_thread(to_base64, image, body.format) for image in images]
    return schemas.DecodeResponse(images=[schemas.DecodedImage(format=body.format, data=data) for data in files])
