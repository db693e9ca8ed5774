"""Uploaded bytes to the square that the tokenizer reads, and images to the bytes that are sent.

Nothing is written to disk, and nothing of a file is decoded before its kind and its header's size are known.
Shapes: h image side.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from alitok.apps.serve.faults import ServiceError, unusable
from alitok.apps.serve.limits import ServiceLimits
from alitok.core import images as pixels
from alitok.data.crops import centre_crop, to_rgb

ImageFormat = Literal["png", "webp", "jpeg"]

_READ = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # kinds whose readers start no other program and read no other file
_MOST_SCANS = 100  # of a JPEG file; each is decoded over the whole image, and usual files have about ten
_SCAN = b"\xff\xda"
_LONGEST = 4  # times its width or height, of the part that is resized
# Runs alone are looked for: of filtered pixels that gives smaller files than a search at level 3, in half the time.
_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}
_OPTIONS = {"png": _PNG, "webp": {"lossless": True, "method": 0}, "jpeg": {"quality": 92}}


def read_square(data: bytes, size: int, limits: ServiceLimits) -> Image.Image:
    """The centre of an uploaded image, as for training; of an animation, that of its first frame.

    Args:
        data: a whole PNG, JPEG, WebP, GIF or BMP file.
        size: h.
        limits: of bytes and pixels.

    Returns:
        RGB, h x h.

    Raises:
        ServiceError: it is too large (413), of another kind (415), or damaged (422).
    """
    if len(data) > limits.most_upload_bytes:
        raise too_many_bytes(limits)
    if not data:
        raise unusable("The image is empty.")
    try:
        with Image.open(io.BytesIO(data), formats=_READ) as image:
            _require_few_pixels(image, limits)
            _require_few_scans(image, data)
            return centre_crop(_shortened(to_rgb(image)), size)
    except ServiceError:
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits) from None
    except UnidentifiedImageError:
        known = "PNG, JPEG, WebP, GIF and BMP"
        raise ServiceError(415, "unknown_image", f"This is no image of a known kind; known are {known}.") from None
    except MemoryError:
        raise _too_many_pixels(limits) from None
    except Exception:  # on damaged files Pillow's plugins raise nearly anything, with words that are not for clients
        raise unusable("The image is damaged or cut short and cannot be decoded.") from None


def too_many_bytes(limits: ServiceLimits) -> ServiceError:
    """An image file is too large."""
    return ServiceError(413, "too_large", f"The image has more than {limits.most_upload_bytes:,} bytes.")


def _require_few_pixels(image: Image.Image, limits: ServiceLimits) -> None:
    if image.width * image.height > limits.most_upload_pixels:
        raise _too_many_pixels(limits)


def _too_many_pixels(limits: ServiceLimits) -> ServiceError:
    return ServiceError(413, "too_many_pixels", f"The image has more than {limits.most_upload_pixels:,} pixels.")


def _require_few_scans(image: Image.Image, data: bytes) -> None:
    # An index of further images in its header makes Pillow call a JPEG file MPO; it is decoded all the same.
    if isinstance(image, JpegImageFile) and data.count(_SCAN) > _MOST_SCANS:
        raise ServiceError(413, "too_many_scans", f"The JPEG file has more than {_MOST_SCANS} scans.")


def _shortened(image: Image.Image) -> Image.Image:
    """The middle of a very long image: enlarged whole, a strip of one pixel's height would take all memory."""
    width, height = image.size
    across, along = min(width, _LONGEST * height), min(height, _LONGEST * width)
    left, top = (width - across) // 2, (height - along) // 2
    return image.crop((left, top, left + across, top + along))


def from_base64(text: str, limits: ServiceLimits) -> bytes:
    """The bytes of an image inside JSON.

    Raises:
        ServiceError: it is too long, or no base64.
    """
    if len(text) > 4 * (limits.most_upload_bytes // 3 + 1):
        raise too_many_bytes(limits)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise unusable("The image is no base64 text.") from None


def encoded(image: np.ndarray, kind: ImageFormat = "png") -> str:
    """(3, h, w) uint8 -> the base64 text of an image file; PNG and WebP are lossless."""
    buffer = io.BytesIO()
    pixels.to_pil(image).save(buffer, format=kind, **_OPTIONS[kind])
    return base64.b64encode(buffer.getvalue()).decode("ascii")
