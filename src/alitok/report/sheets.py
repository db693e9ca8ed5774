"""Images as a report shows them: contact sheets that stand in the page as PNG data addresses, and maps of errors.

Enter: images (N, 3, h, w) uint8. Leave: `Sheet`s.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alitok.core.images import grid, png_bytes
from alitok.report.page import needs_libraries

# How many images share a sheet, and how wide each is shown at least, in CSS pixels. On a wide screen three sheets of
# reconstructions or samples, or two of neighbours, stand beside one another; on a phone one.
_TRIPLES, _TRIPLE_WIDTH = 4, 96
_SAMPLE_COLUMNS, _SAMPLE_WIDTH = 5, 64
_PAIRS, _PAIR_WIDTH = 5, 80
_IMAGE_WIDTH = 96
# The mean absolute error of a pixel, where black to white is 1, from which on its map shows the brightest colour. It is
# the same for all images, so that maps can be compared; a reconstruction of 25 dB errs by about 0.04.
ERROR_LIMIT = 0.25
MAP_COLOURS = "magma"  # brightness grows evenly, so that colour-blind people and grey printers read it too


@dataclass(frozen=True)
class Sheet:
    """A grid of images as one data address, with the size in CSS pixels to show it at.

    Attributes:
        address: `data:image/png;base64,...`
        width, height: in CSS pixels, a whole number of times those of the file.
        alt: what is to be seen, for those who do not see it.
        labels: one for each column.
        enlarged: whether a pixel of the file is shown as several.
    """

    address: str
    width: int
    height: int
    alt: str
    labels: tuple[str, ...] = ()
    enlarged: bool = False


@dataclass(frozen=True)
class Reconstructions:
    """Images and what the two decoders make of them, each (N, 3, h, w) uint8."""

    originals: np.ndarray
    stage1: np.ndarray
    stage2: np.ndarray
    heading: str


@dataclass(frozen=True)
class ClassSamples:
    """Samples of one class, (n, 3, h, w) uint8."""

    name: str
    images: np.ndarray


@dataclass(frozen=True)
class Neighbours:
    """Samples and the training image nearest to each.

    Attributes:
        samples, nearest: (N, 3, h, w) uint8.
        distances: (N,).
        meaning: what the distance is.
        note: a sentence on what to compare it with, such as the distance of real images that were held out.
    """

    samples: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray
    meaning: str = "the root-mean-square difference of their pixels, where black to white is 1"
    note: str = ""


def reconstruction_sheets(shown: Reconstructions) -> list[Sheet]:
    """Rows of three: image, stage 1, stage 2."""
    triples = np.stack([shown.originals, shown.stage1, shown.stage2], axis=1)
    sheets = []
    for start in range(0, len(triples), _TRIPLES):
        some = triples[start : start + _TRIPLES]
        alt = f"{len(some)} images, each with its stage 1 and stage 2 reconstruction"
        images = some.reshape(-1, *some.shape[2:])
        sheets.append(_sheet(grid(images, 3), images, _TRIPLE_WIDTH, alt, ("image", "stage 1", "stage 2")))
    return sheets


def sample_sheet(entry: ClassSamples) -> Sheet | None:
    """Samples of one class in rows; None where there are none."""
    if len(entry.images) == 0:
        return None
    pixels = grid(entry.images, min(len(entry.images), _SAMPLE_COLUMNS))
    alt = f"{len(entry.images)} samples of class {entry.name}"
    return _sheet(pixels, entry.images, _SAMPLE_WIDTH, alt)


def neighbour_sheets(shown: Neighbours) -> list[Sheet]:
    """Two rows: samples, and below each its nearest training image."""
    sheets = []
    for start in range(0, len(shown.samples), _PAIRS):
        some = slice(start, start + _PAIRS)
        samples, nearest = shown.samples[some], shown.nearest[some]
        alt = f"{len(samples)} samples above their nearest training images"
        labels = [f"{distance:.3f}" for distance in shown.distances[some]]
        images = np.concatenate([samples, nearest])
        sheets.append(_sheet(grid(images, len(samples)), images, _PAIR_WIDTH, alt, labels))
    return sheets


def image_sheet(image: np.ndarray, alt: str) -> Sheet:
    """One image (3, h, w), without a border."""
    return _sheet(image, image, _IMAGE_WIDTH, alt)


def error_map(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Where a reconstruction errs: each pixel's absolute error, averaged over the channels, as a colour.

    Black is no error; from `ERROR_LIMIT` on the brightest colour stands.

    Args:
        original: (3, h, w) uint8.
        reconstruction: the same.

    Returns:
        (3, h, w) uint8.

    Raises:
        AlitokError: matplotlib is missing.
    """
    assert original.shape == reconstruction.shape, (original.shape, reconstruction.shape)
    errors = np.abs(original.astype(np.int16) - reconstruction).mean(0) / 255
    return coloured(errors / ERROR_LIMIT)


def error_scale() -> Sheet:
    """The colours of `error_map` as a strip, from no error at the left to `ERROR_LIMIT` at the right."""
    strip = np.tile(np.linspace(0, 1, 256), (12, 1))
    return _sheet(coloured(strip), strip, 256, f"colours of errors, from 0 to {ERROR_LIMIT:g}")


@needs_libraries
def coloured(shares: np.ndarray) -> np.ndarray:
    """Numbers (h, w), of which 0 to 1 are told apart -> colours (3, h, w) uint8.

    Raises:
        AlitokError: matplotlib is missing.
    """
    import matplotlib as mpl

    table = np.round(mpl.colormaps[MAP_COLOURS](np.arange(256))[:, :3] * 255).astype(np.uint8)
    rows = np.round(np.clip(shares, 0, 1) * (len(table) - 1)).astype(int)
    return table[rows].transpose(2, 0, 1)


def png_address(png: bytes) -> str:
    """A PNG file as an address that holds the file itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _sheet(pixels: np.ndarray, of: np.ndarray, width: int, alt: str, labels: Sequence[str] = ()) -> Sheet:
    """A sheet of `pixels` (3, H, W), where each of the images `of` (..., w) is shown at least `width` wide.

    It is enlarged by the smallest whole number for which that holds.
    """
    scale = math.ceil(width / of.shape[-1])
    address = png_address(png_bytes(pixels))
    return Sheet(address, pixels.shape[2] * scale, pixels.shape[1] * scale, alt, tuple(labels), enlarged=scale > 1)
