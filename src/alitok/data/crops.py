"""From any Pillow picture to an RGB square.

Enters: a picture of any size and mode. Leaves: an RGB picture of size x size pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

_ORIENTATION = 0x0112  # EXIF tag


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture upright as its EXIF says and convert it to 8-bit RGB.

    Transparency is laid on white. 16-bit grey is scaled to 8 bits (32-bit integers are taken for 16-bit ones);
    float grey is taken for [0, 1], or for [0, 255] when it holds values above 1. Of an animation, the current
    frame is taken.
    """
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        return _grey(values if values.max() > 1 else values * 255)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


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


def _resize_short_side(image: Image.Image, short: int) -> Image.Image:
    """Halve with BOX while the short side has two times `short` pixels or more, then BICUBIC to exactly `short`."""
    while min(image.size) >= 2 * short:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = short / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> np.ndarray:
    """RGB Pillow picture -> (3, h, w) uint8, contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
