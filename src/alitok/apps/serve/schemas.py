"""What requests and answers look like: pydantic models, with the examples that the OpenAPI page shows."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from alitok.apps.serve.uploads import ImageFormat
from alitok.sampling.settings import GuidanceSchedule

LARGEST_SEED = 2**53 - 1  # whole numbers beyond are not exact in JavaScript
_MOST_FIELDS = 50
_MOST_CODES = 65_536  # of an image, whatever the model
_LONGEST_SHOWN = 50  # letters of a name that does not exist
_PNG = "iVBORw0KGgo..."
_SEQUENCE: list[JsonValue] = [3, 1, 4, 1, 5, 9]

ClassName = Annotated[StrictStr, Field(min_length=1, max_length=200)]
ClassNumber = Annotated[StrictInt, Field(ge=0, le=1_000_000)]
Codes = Annotated[list[StrictInt], FailFast(), Field(min_length=1, max_length=_MOST_CODES)]
Real = Annotated[float, Field(strict=True, ge=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class _Request(BaseModel):
    """What all requests share: of a bad body a few errors are found, and not one for each of a million entries."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _require_known_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        if len(body) > _MOST_FIELDS:
            raise PydanticCustomError("too_many_fields", "At most {most} fields can be given", {"most": _MOST_FIELDS})
        unknown = next((name for name in body if name not in cls.model_fields), None)
        if unknown is not None:
            shown = unknown[:_LONGEST_SHOWN].encode("utf-8", "replace").decode()
            near = [name for name in cls.model_fields if name.startswith(shown)]
            near = near or difflib.get_close_matches(shown, cls.model_fields, n=3, cutoff=0.5)
            names = ("near: " if near else "there are ") + ", ".join(near or cls.model_fields)
            raise PydanticCustomError(
                "unknown_field", "There is no field {shown}; {names}", {"shown": shown, "names": names}
            )
        return body


class Completion(_Request):
    """An image whose first rows are kept."""

    image: StrictStr = Field(description="An image file as base64, resized and cropped about its centre.")
    rows: StrictInt = Field(ge=0, le=10_000, description="Rows of patches that are kept, 0 to the model's grid.")


class ImagesRequest(_Request):
    """Images that are wanted; settings that are left out are the model's own."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"classes": [0], "seed": 7},
                {"classes": [0, 1], "count": 2, "seed": None, "guidance_scale": 3.0, "format": "webp"},
            ]
        },
    )

    classes: Annotated[list[ClassNumber | ClassName], FailFast()] = Field(
        min_length=1, max_length=1024, description="Names or numbers."
    )
    count: StrictInt = Field(1, ge=1, le=1024, description="Images of each class.")
    seed: StrictInt | None = Field(
        None, ge=0, le=LARGEST_SEED, description="null = the service draws one and tells it."
    )
    guidance_scale: Real | None = None
    guidance_power: Real | None = None
    guidance_schedule: GuidanceSchedule | None = None
    guidance_start: Share | None = None
    guidance_stop: Share | None = None
    soft_guidance: Annotated[bool, Field(strict=True)] | None = None
    temperature: Real | None = None
    top_k: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | None = None
    top_p: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] | None = None
    min_p: Share | None = None
    format: ImageFormat = "png"
    completion: Completion | None = None


class Wanted(BaseModel):
    """What an image is a function of, beside the settings."""

    label: int = Field(description="The class's number.")
    class_name: str = Field(alias="class", description="The class's name.")
    seed: int
    index: int = Field(description="The image's number among those of its seed.")

    model_config = ConfigDict(populate_by_name=True)


class DrawnImage(Wanted):
    """A finished image."""

    format: ImageFormat
    data: str = Field(description="The image file as base64.")


class ImagesAnswer(BaseModel):
    """Images in the order in which they were asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"images": [{"class": "0", "label": 0, "seed": 7, "index": 0, "format": "png", "data": _PNG}]}]
        }
    )

    images: list[DrawnImage]


class Decibels(BaseModel):
    """PSNR by stage; null where there is no such decoder, or no error at all."""

    stage1: float | None = None
    stage2: float | None = None


class ReconstructAnswer(BaseModel):
    """An image, what each decoder makes of its codes, and the codes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "original": _PNG,
                    "stage1": _PNG,
                    "stage2": _PNG,
                    "difference": _PNG,
                    "difference_scale": 4.0,
                    "psnr": {"stage1": 21.3, "stage2": 23.8},
                    "codes": _SEQUENCE,
                    "grid": 2,
                    "prefix": 2,
                    "codebook_size": 4096,
                }
            ]
        }
    )

    original: str = Field(description="The square that was encoded, as a base64 PNG like the others.")
    stage1: str | None
    stage2: str | None
    difference: str = Field(description="|original - last stage|, times difference_scale, clipped.")
    difference_scale: float
    psnr: Decibels
    codes: list[int]
    grid: int
    prefix: int
    codebook_size: int


class EncodeAnswer(BaseModel):
    """Codes in the order of the uploads."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"codes": [_SEQUENCE], "image_size": 32, "grid": 2, "prefix": 2}]}
    )

    codes: list[list[int]]
    image_size: int
    grid: int
    prefix: int


class DecodeRequest(_Request):
    """Codes that become images."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"codes": [_SEQUENCE], "stage": None, "format": "png"}]}
    )

    codes: Annotated[list[Codes], FailFast()] = Field(
        min_length=1,
        max_length=1024,
        description="For each image as many as /v1/models calls `codes`; the example is of a model with six.",
    )
    stage: Literal["stage1", "stage2"] | None = Field(None, description="null = the last decoder there is.")
    format: ImageFormat = "png"


class PlainImage(BaseModel):
    """An image file."""

    format: ImageFormat
    data: str


class DecodeAnswer(BaseModel):
    """Images in the order of the codes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [{"format": "png", "data": _PNG}]}]})

    images: list[PlainImage]


class ModelFacts(BaseModel):
    """A model that is served."""

    name: str
    image_size: int
    classes: list[str]
    codes: int = Field(description="Codes of an image: prefix + grid * grid.")
    prefix: int
    grid: int
    codebook_size: int
    stages: list[Literal["stage1", "stage2"]]
    sampling: dict[str, Any] = Field(description="The settings that hold where a request gives none.")
    limits: dict[str, float]
    run: bool = Field(description="Whether /v1/run shows a training.")


class ModelsAnswer(BaseModel):
    """All models that are served."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "models": [
                        {
                            "name": "model",
                            "image_size": 32,
                            "classes": ["0", "1"],
                            "codes": 6,
                            "prefix": 2,
                            "grid": 2,
                            "codebook_size": 4096,
                            "stages": ["stage1", "stage2"],
                            "sampling": {"guidance_scale": 3.0, "temperature": 1.0},
                            "limits": {"most_images": 64, "most_upload_bytes": 16777216},
                            "run": True,
                        }
                    ]
                }
            ]
        }
    )

    models: list[ModelFacts]


class RunImage(BaseModel):
    """An image that a training left."""

    step: int
    name: str
    url: str


class RunStage(BaseModel):
    """What a training left of one stage."""

    curves: dict[str, list[tuple[float, float]]] = Field(description="[step, value] by the metric's name.")
    images: list[RunImage]


class RunAnswer(BaseModel):
    """A training's stages."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "stages": {
                        "stage1": {
                            "curves": {"loss": [[10, 0.61], [20, 0.48]]},
                            "images": [
                                {
                                    "step": 20,
                                    "name": "reconstructions",
                                    "url": "/v1/run/images/stage1/reconstructions-000020.png",
                                }
                            ],
                        }
                    }
                }
            ]
        }
    )

    stages: dict[str, RunStage]


class HealthAnswer(BaseModel):
    """Whether requests are answered."""

    status: Literal["ok"]


class Fault(BaseModel):
    """Why there is no answer."""

    message: str
    code: str


class FaultAnswer(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": {"message": "Too many images are waiting.", "code": "busy"}}]}
    )

    error: Fault
