"""Request and response bodies as pydantic models, and the errors and access key of a route, for OpenAPI."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from alitok.apps.serve.uploads import ImageFormat
from alitok.sampling.settings import GuidanceSchedule

_MAX_SEED = 2**53 - 1  # larger integers are not exact in JavaScript
_MAX_FIELDS = 50
_MAX_NAME_SHOWN = 50  # characters of an unknown field
_PNG = "iVBORw0KGgo..."
_CODES = [3, 1, 4, 1, 5, 9]
_MODEL = (
    {"name": "model", "image_size": 32, "classes": ["0", "1"], "codes": 6, "prefix": 2, "grid": 2}
    | {"codebook_size": 4096, "stages": ["stage1", "stage2"], "run": True}
    | {"sampling": {"guidance_scale": 3.0}, "limits": {"max_images": 64, "max_upload_bytes": 16777216}}
)
_RUN_IMAGE = {"step": 20, "name": "reconstructions", "url": "/v1/run/images/stage1/name-000020.png"}
_IMAGE = {"class": "0", "label": 0, "seed": 7, "index": 0, "format": "png", "data": _PNG}

ClassName = Annotated[StrictStr, Field(min_length=1, max_length=200)]
ClassNumber = Annotated[StrictInt, Field(ge=0, le=1_000_000)]
Codes = Annotated[list[StrictInt], FailFast(), Field(min_length=1, max_length=65_536)]
Real = Annotated[float, Field(strict=True, ge=0, le=1000, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


def _examples(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class _Request(BaseModel):
    """Reports a few errors of a bad body rather than one for each of a million entries."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _require_known_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        if len(body) > _MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "At most {max} fields are allowed", {"max": _MAX_FIELDS})
        unknown = next((name for name in body if name not in cls.model_fields), None)
        if unknown is not None:
            shown = unknown[:_MAX_NAME_SHOWN].encode("utf-8", "replace").decode()
            near = [name for name in cls.model_fields if name.startswith(shown)]
            near = near or difflib.get_close_matches(shown, cls.model_fields, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known fields: {', '.join(cls.model_fields)}"
            raise PydanticCustomError("unknown_field", "Unknown field {shown}; {hint}", {"shown": shown, "hint": hint})
        return body


class Completion(_Request):
    """An image whose first rows are given."""

    image: StrictStr = Field(description="An image file in base64, resized and center-cropped.")
    rows: StrictInt = Field(ge=0, le=10_000, description="Rows of patches that are given, 0 to the model's grid.")


class ImagesRequest(_Request):
    """Images to generate; omitted settings are the model's own."""

    model_config = _examples(
        {"classes": [0], "seed": 7},
        {"classes": [0, 1], "count": 2, "seed": None, "guidance_scale": 3.0, "format": "webp"},
    )

    classes: Annotated[list[ClassNumber | ClassName], FailFast()] = Field(
        min_length=1, max_length=1024, description="Names or numbers."
    )
    count: StrictInt = Field(1, ge=1, le=1024, description="Images per class.")
    seed: StrictInt | None = Field(
        None, ge=0, le=_MAX_SEED, description="null = chosen by the service and returned with the images."
    )
    guidance_scale: Real | None = None
    guidance_power: Real | None = None
    guidance_schedule: GuidanceSchedule | None = None
    guidance_start: Fraction | None = None
    guidance_stop: Fraction | None = None
    soft_guidance: Annotated[bool, Field(strict=True)] | None = None
    temperature: Real | None = None
    top_k: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | None = None
    top_p: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] | None = None
    min_p: Fraction | None = None
    format: ImageFormat = "png"
    completion: Completion | None = None


class GeneratedImage(BaseModel):
    """A finished image, and what determines it together with the settings."""

    label: int = Field(description="Class number.")
    class_name: str = Field(alias="class", description="Class name.")
    seed: int
    index: int = Field(description="Number of the image among those of its seed.")
    format: ImageFormat
    data: str = Field(description="The image file in base64.")


class ImagesResponse(BaseModel):
    """Images in the order of the request."""

    model_config = _examples({"images": [_IMAGE]})

    images: list[GeneratedImage]


class Psnr(BaseModel):
    """PSNR in dB by stage; null if there is no such decoder, or no error at all."""

    stage1: float | None = None
    stage2: float | None = None


class ReconstructResponse(BaseModel):
    """An image, its reconstruction by each decoder, and its codes."""

    model_config = _examples(
        {"original": _PNG, "stage1": _PNG, "stage2": _PNG, "difference": _PNG, "difference_scale": 4.0}
        | {"psnr": {"stage1": 21.3, "stage2": 23.8}, "codes": _CODES, "grid": 2, "prefix": 2, "codebook_size": 4096}
    )

    original: str = Field(description="The crop that was encoded, a PNG in base64 like the others.")
    stage1: str | None = None
    stage2: str | None = None
    difference: str = Field(description="|original - last stage|, times difference_scale, clipped.")
    difference_scale: float
    psnr: Psnr
    codes: list[int]
    grid: int
    prefix: int
    codebook_size: int


class EncodeResponse(BaseModel):
    """Codes in the order of the uploads."""

    model_config = _examples({"codes": [_CODES], "image_size": 32, "grid": 2, "prefix": 2})

    codes: list[list[int]]
    image_size: int
    grid: int
    prefix: int


class DecodeRequest(_Request):
    """Codes to decode."""

    model_config = _examples({"codes": [_CODES], "stage": None, "format": "png"})

    codes: Annotated[list[Codes], FailFast()] = Field(
        min_length=1,
        max_length=1024,
        description="For each image as many as `codes` in /v1/models; the example is for a model with six.",
    )
    stage: Literal["stage1", "stage2"] | None = Field(None, description="null = the model's last decoder.")
    format: ImageFormat = "png"


class DecodedImage(BaseModel):
    """An image file in base64."""

    format: ImageFormat
    data: str


class DecodeResponse(BaseModel):
    """Images in the order of the codes."""

    model_config = _examples({"images": [{"format": "png", "data": _PNG}]})

    images: list[DecodedImage]


class ModelInfo(BaseModel):
    """A served model."""

    name: str
    image_size: int
    classes: list[str]
    codes: int = Field(description="Codes per image: prefix + grid * grid.")
    prefix: int
    grid: int
    codebook_size: int
    stages: list[Literal["stage1", "stage2"]]
    sampling: dict[str, Any] = Field(description="Default settings.")
    limits: dict[str, float]
    run: bool = Field(description="Whether /v1/run shows a training run.")


class ModelsResponse(BaseModel):
    """All served models."""

    model_config = _examples({"models": [_MODEL]})

    models: list[ModelInfo]


class RunImage(BaseModel):
    """An image logged during training."""

    step: int
    name: str
    url: str


class RunStage(BaseModel):
    """Curves and images of one training stage."""

    curves: dict[str, list[tuple[float, float]]] = Field(description="[step, value] by metric.")
    images: list[RunImage]


class RunResponse(BaseModel):
    """The stages of a training run."""

    model_config = _examples(
        {"stages": {"stage1": {"curves": {"loss": [[10, 0.61], [20, 0.48]]}, "images": [_RUN_IMAGE]}}}
    )

    stages: dict[str, RunStage]


class HealthResponse(BaseModel):
    """Whether requests are accepted."""

    status: Literal["ok"]


class Error(BaseModel):
    """Why a request failed."""

    message: str
    code: str


class ErrorResponse(BaseModel):
    """The body of every error."""

    model_config = _examples({"error": {"message": "Too many images are waiting.", "code": "busy"}})

    error: Error


# For the documentation only: the guard checks the key before a route is looked up.
REQUIRES_KEY = [
    Security(HTTPBearer(auto_error=False, scheme_name="key", description="The service's key, if it requires one."))
]
_ERRORS = {
    401: "No valid key.",
    403: "The request comes from a page of another site.",
    404: "Not found.",
    408: "The request did not arrive in time.",
    413: "The body, or an image in it, is too large.",
    415: "The content type, or the format of an image, is not supported.",
    421: "Unknown host name.",
    422: "A value in the request is invalid.",
    429: "The queue is full; see Retry-After.",
    500: "The service failed.",
    503: "The service is shutting down, or its worker has died.",
    504: "The response was not ready in time.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these statuses and those of all routes."""
    return {
        status: {"model": ErrorResponse, "description": _ERRORS[status]}
        for status in sorted({*statuses, 403, 421, 500})
    }
