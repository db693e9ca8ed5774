"""The application: all routes of one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from alitok import __version__
from alitok.apps.serve import coding, drawing
from alitok.apps.serve.documented import KEYED, faults
from alitok.apps.serve.faults import ServiceError, stopping
from alitok.apps.serve.guard import Guard
from alitok.apps.serve.model import ServedModel
from alitok.apps.serve.schemas import HealthAnswer, ModelsAnswer, RunAnswer
from alitok.apps.serve.service import Service, ServiceSettings, service_of
from alitok.core.config import to_dict

router = APIRouter()
keyed = APIRouter(dependencies=KEYED)
_CODES = {400: "bad_request", 404: "not_found", 405: "method", 413: "too_large", 415: "content_type"}
_SENTENCES = {
    400: "The request cannot be read.",
    404: "There is nothing here.",
    405: "This address takes other methods.",
}
_KINDS = {  # the machine's own table may say something else, and browsers run no script of another kind
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "webp": "image/webp",
    "woff2": "font/woff2",
}
_DEEPEST = 4  # parts of a field's path that are told


def create_app(model: ServedModel, settings: ServiceSettings | None = None) -> FastAPI:
    """The application that serves a model; it works from its startup to its shutdown.

    Args:
        model: the pair.
        settings: limits, key and the rest; None = the defaults, open to whoever reaches it.

    Returns:
        An ASGI application; `app.state.service` is its `Service`.

    Raises:
        AlitokError: the run directory of the settings is none.
    """
    service = Service(model, settings or ServiceSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="alitok",
        version=__version__,
        summary="Images from predictable codes.",
        docs_url=None,  # FastAPI's pages load scripts from other sites
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    for each in (router, keyed, drawing.router, coding.router):
        app.include_router(each)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_middleware(Guard, service=service)
    return app


@router.get("/healthz", response_model=HealthAnswer, tags=["service"], summary="Alive?", responses=faults(503))
async def healthz(request: Request) -> Any:
    """Whether new requests are taken."""
    batcher = service_of(request).batcher
    if not batcher.accepting:
        raise stopping()
    if not batcher.alive:
        raise ServiceError(503, "broken", "The service's worker has ended; start the service again.")
    return HealthAnswer(status="ok")


@router.get(
    "/metrics",
    response_class=Response,
    tags=["service"],
    summary="Numbers for Prometheus",
    responses={200: {"content": {"text/plain": {"example": "alitok_images_total 12.0"}}}, **faults()},
)
async def metrics(request: Request) -> Response:
    """Counters and times."""
    return Response(await service_of(request).numbers_text(), media_type=CONTENT_TYPE_LATEST)


@keyed.get("/v1/models", response_model=ModelsAnswer, tags=["service"], summary="Models", responses=faults(401))
async def models(request: Request) -> Any:
    """The model, its classes, default settings and bounds."""
    service = service_of(request)
    facts = {**service.model.describe(), "limits": to_dict(service.limits), "run": service.run is not None}
    return {"models": [facts]}


@keyed.get("/v1/run", response_model=RunAnswer, tags=["run"], summary="A training", responses=faults(401, 404))
async def run(request: Request) -> Any:
    """Curves and images of the training that the service was started with."""
    view = service_of(request).run
    if view is None:
        raise _missing("The service shows no training; start it with --run.")
    return await asyncio.to_thread(view.describe)


@keyed.get(
    "/v1/run/images/{stage}/{name}",
    response_class=Response,
    tags=["run"],
    summary="An image of a training",
    responses={200: {"content": {"image/png": {}}}, **faults(401, 404, 422)},
)
async def run_image(stage: str, name: str, request: Request) -> Response:
    """An image that `/v1/run` names."""
    view = service_of(request).run
    data = None if view is None else await asyncio.to_thread(view.image, stage, name)
    if data is None:
        raise _missing("There is no such image.")
    return Response(data, media_type="image/png")


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return await _page_file(service_of(request).settings.page, "index.html")


@router.get("/static/{name:path}", include_in_schema=False)
async def static(name: str, request: Request) -> Response:
    """The page's other files."""
    return await _page_file(service_of(request).settings.page, name)


async def _page_file(folder: Path, name: str) -> Response:
    """A file of the page: what is asked for is looked up among those that are there, and never made a path."""

    def read() -> bytes | None:
        there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return there[name].read_bytes() if name in there else None

    data = await asyncio.to_thread(read)
    if data is None:
        raise _missing(_SENTENCES[404])
    kind = _KINDS.get(name.rpartition(".")[2], "application/octet-stream")
    return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})


def _missing(message: str) -> ServiceError:
    return ServiceError(404, "not_found", message)


async def _invalid(request: Request, error: Exception) -> Response:
    """Pydantic's first finding in one sentence, without the value: it may be long, or no JSON."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _answer(ServiceError(422, "invalid", "The body is no valid JSON."))
    field = ".".join(str(part)[:50] for part in first["loc"][1 : 1 + _DEEPEST])
    said = str(first["msg"]).rstrip(".")
    return _answer(ServiceError(422, "invalid", f"{field}: {said}." if field else f"{said}."))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code
    message = _SENTENCES.get(error.status_code, "The request is refused.")
    return _answer(ServiceError(status, _CODES.get(status, "invalid"), message, error.headers))


def _answer(error: ServiceError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)
