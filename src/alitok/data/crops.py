"""Any Pillow image to RGB squares of size x size px, cropped in one or in five places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from alitok.core.choices import CropRecipe

VIEWS: dict[CropRecipe, int] = {"centre": 1, "flip": 2, "ten": 10}  # views per photograph

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright by its EXIF orientation, in 8-bit RGB.

    Transparency is composited on white. 16-bit grey is scaled to 8 bits (32-bit integers count as 16-bit); float grey
    is in [0, 1], or in [0, 255] if it has values above 1. Of an animation, the current frame is used.
    """
    image.load()  # before its EXIF, which may load too and would hide a truncated file
    turned = orientation(image)
    if turned != 1:
        image = image.transpose(_UPRIGHT[turned])
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        return _grey(values if values.max() > 1 else values * 255)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is missing, invalid or damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata does not make the image unusable
        return 1
    return value if value in _UPRIGHT else 1


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square, shrunk or enlarged to size x size, resampled as in ADM's evaluation."""
    image = _resize_short_side(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def random_crop(image: Image.Image, size: int, rng: np.random.Generator, scale: float = 1.1) -> Image.Image:
    """Resize the short side to round(scale * size) and cut out size x size pixels, every position equally likely."""
    image = _resize_short_side(image, round(scale * size))
    left = int(rng.integers(image.width - size + 1))
    top = int(rng.integers(image.height - size + 1))
    return image.crop((left, top, left + size, top + size))


def five_crops(image: Image.Image, size: int, scale: float = 1.1) -> list[Image.Image]:
    """Resize the short side to round(scale * size) and cut size x size pixels out of the corners and the centre.

    Order: top left, top right, bottom left, bottom right, centre. Half pixels are rounded to even, as in torchvision.
    """
    image = _resize_short_side(image, round(scale * size))
    right, bottom = image.width - size, image.height - size
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2))]
    return [image.crop((left, top, left + size, top + size)) for left, top in corners]


def _resize_short_side(image: Image.Image, short: int) -> Image.Image:
    """Halve with BOX while the short side has two times `short` pixels or more, then BICUBIC to exactly `short`."""
    while min(image.size) >= 2 * short:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = short / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> np.ndarray:
    """RGB Pillow image -> (3, h, w) uint8, contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def stack_views(views: Sequence[np.ndarray], mirrored: bool) -> np.ndarray:
    """Images (3, h, w) -> (C, 3, h, w); if `mirrored`, all of them, then their mirror images in the same order."""
    stacked = np.stack(views)
    return np.concatenate([stacked, stacked[..., ::-1]]) if mirrored else stacked
