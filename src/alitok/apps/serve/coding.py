"""Routes of the tokenizer: images to codes, codes to images, and what is lost on the way."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, File, Request, UploadFile
from PIL import Image

from alitok.apps.serve.documented import KEYED, faults
from alitok.apps.serve.faults import unusable
from alitok.apps.serve.model import DIFFERENCE_SCALE
from alitok.apps.serve.schemas import Decibels, DecodeAnswer, DecodeRequest, EncodeAnswer, PlainImage, ReconstructAnswer
from alitok.apps.serve.service import Service, service_of
from alitok.apps.serve.uploads import encoded, too_many_bytes
from alitok.data.crops import to_array

router = APIRouter(tags=["codes"], dependencies=KEYED)
_FAULTS = faults(401, 408, 413, 415, 422, 429, 503, 504)


@router.post("/v1/reconstruct", response_model=ReconstructAnswer, summary="What coding leaves", responses=_FAULTS)
async def reconstruct(image: Annotated[UploadFile, File(description="An image file.")], request: Request) -> Any:
    """Encode an image and decode it again with each decoder there is.

    The image is resized and cropped about its centre; PSNR is taken against that square, in decibels.
    """
    service = service_of(request)
    return await service.in_time(request, _reconstructed(service, image))


async def _reconstructed(service: Service, image: UploadFile) -> ReconstructAnswer:
    model, config = service.model, service.model.pipeline.tokenizer.config
    with service.batcher.places(1) as places:
        square = to_array(await _square(service, image))
        found = await places.call(partial(model.reconstruct, square))
    rebuilt = {stage: await asyncio.to_thread(encoded, decoded) for stage, decoded in found.images.items()}
    return ReconstructAnswer(
        original=await asyncio.to_thread(encoded, square),
        stage1=rebuilt.get("stage1"),
        stage2=rebuilt.get("stage2"),
        difference=await asyncio.to_thread(encoded, found.difference),
        difference_scale=DIFFERENCE_SCALE,
        psnr=Decibels(stage1=found.decibels.get("stage1"), stage2=found.decibels.get("stage2")),
        codes=found.codes,
        grid=config.grid,
        prefix=config.prefix_length,
        codebook_size=config.codebook_size,
    )


@router.post("/v1/encode", response_model=EncodeAnswer, summary="Images to codes", responses=_FAULTS)
async def encode(image: Annotated[list[UploadFile], File(description="Image files.")], request: Request) -> Any:
    """Encode one image or several, each resized and cropped about its centre."""
    service = service_of(request)
    if len(image) > service.limits.most_uploads:
        raise unusable(f"At most {service.limits.most_uploads} images can be sent at a time, not {len(image)}.")
    return await service.in_time(request, _encoded(service, image))


async def _encoded(service: Service, images: list[UploadFile]) -> EncodeAnswer:
    model, config = service.model, service.model.pipeline.tokenizer.config
    with service.batcher.places(len(images)) as places:
        squares = [to_array(await _square(service, image)) for image in images]
        codes = await places.calls(partial(model.encode, square) for square in squares)
    return EncodeAnswer(codes=codes, image_size=config.image_size, grid=config.grid, prefix=config.prefix_length)


@router.post("/v1/decode", response_model=DecodeAnswer, summary="Codes to images", responses=_FAULTS)
async def decode(body: DecodeRequest, request: Request) -> Any:
    """Decode sequences of codes by one of the decoders."""
    service = service_of(request)
    _check_codes(service, body)
    return await service.in_time(request, _decoded(service, body))


async def _decoded(service: Service, body: DecodeRequest) -> DecodeAnswer:
    with service.batcher.places(len(body.codes)) as places:
        images = await places.calls(partial(service.model.decode, codes, body.stage) for codes in body.codes)
    files = [await asyncio.to_thread(encoded, image, body.format) for image in images]
    return DecodeAnswer(images=[PlainImage(format=body.format, data=data) for data in files])


def _check_codes(service: Service, body: DecodeRequest) -> None:
    config, most = service.model.pipeline.tokenizer.config, service.limits.most_images
    if len(body.codes) > most:
        raise unusable(f"At most {most} images can be decoded at a time, not {len(body.codes)}.")
    if any(len(codes) != config.sequence_length for codes in body.codes):
        raise unusable(f"An image of this model has {config.sequence_length} codes.")
    if any(not 0 <= code < config.codebook_size for codes in body.codes for code in codes):
        raise unusable(f"Codes must be within 0 to {config.codebook_size - 1}.")
    if body.stage is not None and body.stage not in service.model.stages:
        raise unusable(f"This model has no {body.stage} decoder.")


async def _square(service: Service, upload: UploadFile) -> Image.Image:
    """The square of an uploaded image; its name is never looked at."""
    if (upload.size or 0) > service.limits.most_upload_bytes:
        raise too_many_bytes(service.limits)
    return await service.square(await upload.read())
