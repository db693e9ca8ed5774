"""The ASGI application of a service: its routes, the page, and how errors are reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from alitok import __version__
from alitok.apps.serve import routes, schemas
from alitok.apps.serve.errors import ServiceError, invalid, not_found, stopping
from alitok.apps.serve.guard import Guard
from alitok.apps.serve.schemas import error_responses
from alitok.apps.serve.service import Service, service_of

_open = APIRouter(tags=["service"])
_keyed = APIRouter(dependencies=schemas.REQUIRES_KEY)
_HTTP_ERRORS = {
    400: ("invalid", "The request cannot be parsed."),
    404: ("not_found", "Not found."),
    405: ("method", "Method not allowed."),
    413: ("too_large", "The request is too large."),
    415: ("content_type", "The content type is not supported."),
}
_MEDIA_TYPES = {  # the system's own table may differ, and browsers run no script of another type
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_MAX_PATH = 4  # parts of a field's path that an error shows


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service; its startup starts the batcher, its shutdown closes the service."""

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
    for router in (_open, _keyed, routes.router):
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(Guard, service=service)
    return app


@_open.get("/healthz", summary="Health check", responses=error_responses(503))
async def healthz(request: Request) -> schemas.HealthResponse:
    """Whether new requests are accepted."""
    batcher = service_of(request).batcher
    if not batcher.accepting:
        raise stopping()
    if not batcher.alive:
        raise ServiceError(503, "broken", "The service's worker has died; restart the service.")
    return schemas.HealthResponse(status="ok")


@_open.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": "alitok_images_total 12.0"}}}, **error_responses()},
)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms."""
    return Response(await service_of(request).metrics_text(), media_type=CONTENT_TYPE_LATEST)


@_keyed.get("/v1/models", tags=["service"], summary="List models", responses=error_responses(401))
async def models(request: Request) -> schemas.ModelsResponse:
    """The model, its classes, default settings and limits."""
    service = service_of(request)
    info = {**service.model.describe(), "limits": asdict(service.limits), "run": service.run is not None}
    return schemas.ModelsResponse.model_validate({"models": [info]})


@_keyed.get("/v1/run", tags=["run"], summary="Training run", responses=error_responses(401, 404))
async def run(request: Request) -> schemas.RunResponse:
    """Curves and images of the training run given with --run."""
    view = service_of(request).run
    if view is None:
        raise not_found("No training run to show; start the service with --run.")
    return schemas.RunResponse.model_validate(await asyncio.to_thread(view.describe))


@_keyed.get(
    "/v1/run/images/{stage}/{name}",
    tags=["run"],
    summary="Image of a training run",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **error_responses(401, 404, 422)},
)
async def run_image(stage: str, name: str, request: Request) -> Response:
    """An image listed in `/v1/run`."""
    view = service_of(request).run
    data = None if view is None else await asyncio.to_thread(view.image, stage, name)
    if data is None:
        raise not_found("Image not found.")
    return Response(data, media_type="image/png")


@_open.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return await page_file("index.html", request)


@_open.get("/static/{name:path}", include_in_schema=False)
async def page_file(name: str, request: Request) -> Response:
    """Another file of the page; the name is looked up among existing files and never becomes a path."""
    folder = service_of(request).page

    def read() -> bytes | None:
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return files[name].read_bytes() if name in files else None

    data = await asyncio.to_thread(read)
    if data is None:
        raise not_found("Not found.")
    media_type = _MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
    return Response(data, media_type=media_type, headers={"Cache-Control": "no-cache"})


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """Pydantic's first error in one sentence, without the value, which may be long or not JSON."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _to_response(invalid("The body is not valid JSON."))
    field = ".".join(str(part)[:50] for part in first["loc"][1 : 1 + _MAX_PATH])
    message = str(first["msg"]).rstrip(".")
    message += "" if message.endswith("?") else "."
    return _to_response(invalid(f"{field}: {message}" if field else message))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code
    code, message = _HTTP_ERRORS.get(error.status_code, ("invalid", "The request was rejected."))
    return _to_response(ServiceError(status, code, message, error.headers))


def _to_response(error: ServiceError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)
