"""Uploaded image files to square images, all in memory and checked before they are decoded, and images to base64."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from alitok.apps.serve.errors import ServiceError, image_too_large, invalid
from alitok.apps.serve.options import ServiceLimits
from alitok.core import images as pixels
from alitok.data.crops import centre_crop, to_rgb

ImageFormat = Literal["png", "webp", "jpeg"]

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # their decoders start no other program and read no other file
_MAX_SCANS = 100  # of a JPEG file, each decoded over the whole image; usual files have about ten
_SCAN = b"\xff\xda"
_MAX_ASPECT = 4  # of the part that is resized
# Run-length compression makes filtered images smaller than a search at level 3, in half the time.
_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}
_OPTIONS = {"png": _PNG, "webp": {"lossless": True, "method": 0}, "jpeg": {"quality": 92}}


def read_square(data: bytes, size: int, limits: ServiceLimits) -> Image.Image:
    """The center crop of an image file (or its first frame) as in training, RGB, `size` x `size` px.

    Raises:
        ServiceError: it is too large (413), of another format (415), or corrupt (422).
    """
    if len(data) > limits.max_upload_bytes:
        raise image_too_large(limits.max_upload_bytes)
    if not data:
        raise invalid("The image is empty.")
    too_many_pixels = ServiceError(413, "too_many_pixels", f"The image exceeds {limits.max_upload_pixels:,} pixels.")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > limits.max_upload_pixels:
                raise too_many_pixels
            # Pillow calls a JPEG file with an index of further images MPO, and decodes it like a JPEG file.
            if isinstance(image, JpegImageFile) and data.count(_SCAN) > _MAX_SCANS:
                raise ServiceError(413, "too_many_scans", f"The JPEG file has more than {_MAX_SCANS} scans.")
            return centre_crop(_limit_aspect(to_rgb(image)), size)
    except ServiceError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise too_many_pixels from None
    except UnidentifiedImageError:
        message = "Unknown image format; supported are PNG, JPEG, WebP, GIF and BMP."
        raise ServiceError(415, "unknown_image", message) from None
    except Exception:  # on corrupt files Pillow raises nearly anything, with messages that are not for clients
        raise invalid("The image is corrupt or truncated and cannot be decoded.") from None


def _limit_aspect(image: Image.Image) -> Image.Image:
    """The middle of a very long image: resized whole, a strip one pixel high would take all memory."""
    width, height = image.size
    new_width, new_height = min(width, _MAX_ASPECT * height), min(height, _MAX_ASPECT * width)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height))


def from_base64(text: str, limits: ServiceLimits) -> bytes:
    """The bytes of an image inside JSON; `ServiceError` if it is too long or not base64."""
    if len(text) > 4 * (limits.max_upload_bytes // 3 + 1):
        raise image_too_large(limits.max_upload_bytes)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("The image is not base64.") from None


def to_base64(image: np.ndarray, format: ImageFormat = "png") -> str:
    """(3, h, w) uint8 -> a base64 image file; PNG and WebP are lossless."""
    buffer = io.BytesIO()
    pixels.to_pil(image).save(buffer, format=format, **_OPTIONS[format])
    return base64.b64encode(buffer.getvalue()).decode("ascii")
