"""Contact sheets with text, as PNG files for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alitok.core import images as pixels

_GAP, _CAPTION = 4, 14  # px around an image, and of a caption below it
_CELL, _NAME, _LINES = 64, 160, 4  # px of an image in a named row at least, px for the name, and its lines

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def captioned_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> bytes:
    """Square images of one size in rows, each above as much of its caption as fits."""
    side, font = images[0].width, ImageFont.load_default()
    across, down = side + _GAP, side + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, -(-len(images) // columns) * down + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = number % columns * across + _GAP, number // columns * down + _GAP
        sheet.paste(image, (left, top))
        draw.text((left, top + side), _fitting(caption, font, side), fill="black", font=font)
    return pixels.png_bytes(np.asarray(sheet).transpose(2, 0, 1))


def named_rows(rows: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Rows of images (N, 3, h, w) uint8, each beside its name."""
    side = rows[0][1].shape[-1]
    scale = max(1, _CELL // side)
    step = side * scale + _GAP
    width = _NAME + max(len(images) for _, images in rows) * step
    sheet = Image.new("RGB", (width, len(rows) * step + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (name, images) in enumerate(rows):
        top = number * step + _GAP
        draw.text((_GAP, top), _wrapped(name, font), fill="black", font=font)
        for place, image in enumerate(images):
            sheet.paste(pixels.to_pil(image, scale), (_NAME + place * step, top))
    return pixels.png_bytes(np.asarray(sheet).transpose(2, 0, 1))


def _fitting(text: str, font: Font, width: int) -> str:
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType has Latin letters only
        text = text.encode("latin-1", "replace").decode("latin-1")
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _wrapped(text: str, font: Font) -> str:
    lines = [""]
    for letter in text:
        if font.getlength(lines[-1] + letter) > _NAME - 2 * _GAP:
            lines.append("")
        lines[-1] += letter
    return "\n".join(lines[:_LINES])
