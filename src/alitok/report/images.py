"""Contact sheets of a report, error maps, and the sections of images that several reports share.

Images are (N, 3, h, w) uint8.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alitok.core.images import grid, png_bytes
from alitok.report.html import needs_libraries
from alitok.report.model import Images, ImageSheet, Section

_ROWS = 4  # images of a sheet of reconstructions; on a wide screen three sheets stand side by side, on a phone one
_SAMPLE_COLUMNS, _SAMPLE_WIDTH = 5, 64
_NEIGHBOURS, _NEIGHBOUR_WIDTH = 5, 80
# Mean absolute error of a pixel, where black to white is 1, from which on an error map is brightest. It is the same for
# all images, so that maps compare; a reconstruction of 25 dB errs by about 0.04.
ERROR_LIMIT = 0.25
COLOUR_MAP = "magma"  # brightness grows evenly: readable for the color-blind and on gray printers


@dataclass(frozen=True)
class InlineImage:
    """A PNG as it stands in a page: its data address, its size in CSS pixels, and whether its pixels are enlarged."""

    address: str
    width: int
    height: int
    enlarged: bool = False


def png_address(png: bytes) -> str:
    """A PNG file as an address that holds the file itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def inline_sheet(sheet: ImageSheet) -> InlineImage | None:
    """The sheet as a PNG; None without images."""
    if len(sheet.images) == 0:
        return None
    pixels = grid(sheet.images, min(len(sheet.images), sheet.columns), sheet.pad)
    scale = math.ceil(sheet.min_width / sheet.images.shape[-1])
    address = png_address(png_bytes(pixels))
    return InlineImage(address, pixels.shape[2] * scale, pixels.shape[1] * scale, enlarged=scale > 1)


@needs_libraries()
def coloured(values: np.ndarray) -> np.ndarray:
    """Numbers (h, w), clipped to 0 to 1 -> colors (3, h, w) uint8."""
    import matplotlib as mpl

    table = np.round(mpl.colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    rows = np.round(np.clip(values, 0, 1) * (len(table) - 1)).astype(int)
    return table[rows].transpose(2, 0, 1)


def error_map(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Absolute error, averaged over channels, as a color: 0 is black, `ERROR_LIMIT` brightest; all (3, h, w) uint8."""
    assert original.shape == reconstruction.shape, (original.shape, reconstruction.shape)
    errors = np.abs(original.astype(np.int16) - reconstruction).mean(0) / 255
    return coloured(errors / ERROR_LIMIT)


def error_scale() -> ImageSheet:
    """The colors of `error_map` as a strip."""
    strip = coloured(np.tile(np.linspace(0, 1, 256), (12, 1)))
    caption = f"Absolute error of a pixel: 0 (left) to {ERROR_LIMIT:g} or more (right), where 1 is black to white"
    alt = f"colours of errors, from 0 to {ERROR_LIMIT:g}"
    return ImageSheet(strip[None], alt, caption=caption, min_width=256, pad=0)


def reconstructions(originals: np.ndarray, rebuilt: Mapping[str, np.ndarray]) -> Images:
    """A row for each image: the original, then its reconstruction by each decoder, by its name."""
    together = np.stack([originals, *rebuilt.values()], axis=1)
    sheets = []
    for start in range(0, len(together), _ROWS):
        some = together[start : start + _ROWS]
        alt = f"{len(some)} images, each with its reconstructions by {' and '.join(rebuilt)}"
        images = some.reshape(-1, *some.shape[2:])
        sheets.append(ImageSheet(images, alt, some.shape[1], labels=("original", *rebuilt)))
    return Images(tuple(sheets))


def samples_by_class(samples: Mapping[str, np.ndarray], note: str = "") -> Section:
    """A sheet for each class."""
    sheets = []
    for name, images in samples.items():
        alt = f"{len(images)} samples of class {name}"
        sheets.append(ImageSheet(images, alt, _SAMPLE_COLUMNS, caption=name, min_width=_SAMPLE_WIDTH))
    return Section("Samples by class", (Images(tuple(sheets)),), note)


def nearest_neighbours(samples: np.ndarray, nearest: np.ndarray, distances: np.ndarray, note: str = "") -> Section:
    """Samples above the training image nearest to each, to see whether they are copies.

    `distances` (N,): root-mean-square difference of pixels, black to white is 1; `note`: what to compare them with.
    """
    sheets = []
    for start in range(0, len(samples), _NEIGHBOURS):
        some = slice(start, start + _NEIGHBOURS)
        images, count = np.concatenate([samples[some], nearest[some]]), len(samples[some])
        labels = tuple(f"{distance:.3f}" for distance in distances[some])
        alt = f"{count} samples above their nearest training images"
        sheets.append(ImageSheet(images, alt, count, "", labels, labels_below=True, min_width=_NEIGHBOUR_WIDTH))
    text = (
        "Top: samples. Bottom: the nearest training image of each, and the root-mean-square difference of their "
        f"pixels, where black to white is 1. {note}"
    )
    return Section("Nearest training images", (Images(tuple(sheets)),), text.strip())
