"""Encoded images to upright RGB, and what there is to know of one.

Enters: the bytes of an image file. Leaves: an RGB Pillow image, or one sentence on why there is none; for
`alitok data inspect` the facts of the image.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from alitok.core.errors import AlitokError, said
from alitok.core.machine import cores
from alitok.data.crops import orientation, to_rgb
from alitok.data.images import Images

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST_SIDE = 8  # pixels
_MOST_ENLARGED = 4  # times
_MOST_THREADS = 16
_STARTS_PROGRAMS = ("EPS",)  # Ghostscript, also for a .jpg that holds EPS


class BrokenImageError(AlitokError):
    """One image cannot be used.

    Attributes:
        key: which.
        reason: as in `Broken`.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)  # both, so that it can be pickled on its way from a worker
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key} {self.reason}; replace or remove it."


def decode(encoded: bytes) -> Image.Image:
    """RGB, upright; raises whatever Pillow raises, which `reason` puts in words."""
    if not encoded:
        raise EOFError("the file is empty")
    with _opened(encoded) as image:
        return to_rgb(image)


def _opened(encoded: bytes) -> Image.Image:
    """Its header is read, by whichever reader knows it; none that would start another program."""
    return Image.open(io.BytesIO(encoded), formats=_readers())


@cache
def _readers() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _STARTS_PROGRAMS)


def read_image(images: Images, index: int) -> Image.Image:
    """One image, RGB and upright.

    Raises:
        BrokenImageError: it cannot be read or decoded.
        AlitokError: no image can be read.
    """
    try:
        return decode(images.encoded(index))
    except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
        raise BrokenImageError(images.key(index), reason(error)) from None


def header_size(images: Images, index: int) -> tuple[int, int] | None:
    """Width and height as the header of an image tells them; None where it does not.

    Raises:
        AlitokError: no image can be read.
    """
    try:
        with _opened(images.encoded(index)) as image:
            return image.size
    except Exception as error:
        reason(error)
        return None


def reason(error: Exception) -> str:
    """What reading or decoding one image raised, as the end of a sentence that begins with the image.

    Raises:
        AlitokError: `error` is one, so not about this image.
    """
    match error:
        case BrokenImageError():
            return error.reason
        case AlitokError():
            raise error
        case FileNotFoundError():
            return "does not exist"
        case Image.DecompressionBombError():
            return f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        case Image.UnidentifiedImageError():
            return "is not an image that Pillow can read"
        case OSError(strerror=str(text)):  # of the system; Pillow's own have a text only
            return f"cannot be read ({text})"
    return f"cannot be decoded ({said(error, whole=True)})"


def too_small(width: int, height: int, size: int) -> str | None:
    """Why an image is too small for training at `size` pixels a side; None when it is not."""
    least = max(_LEAST_SIDE, size // _MOST_ENLARGED)
    if min(width, height) >= least:
        return None
    return f"is {width} x {height} pixels; for images of {size} pixels it needs at least {least} a side"


@contextmanager
def without_remarks() -> Iterator[None]:
    """Keep Pillow's remarks on odd files from the terminal; what is wrong enough raises.

    Python's filters belong to the whole process: around threads this is entered once, outside.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Facts(NamedTuple):
    """What an image is.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        kinds: what it is besides an 8-bit RGB image of one frame, such as `grey`, `CMYK` or `turned by EXIF`.
        digest: equal for images of the same decoded pixels.
        problem: why it cannot be decoded, or None; the others are then empty.
    """

    width: int = 0
    height: int = 0
    kinds: tuple[str, ...] = ()
    digest: bytes = b""
    problem: str | None = None


def examine(read: Callable[[], bytes]) -> Facts:
    """Read and decode one image.

    Raises:
        AlitokError: no image can be read.
    """
    try:
        encoded = read()
        if not encoded:
            raise EOFError("the file is empty")
        with _opened(encoded) as image:
            kinds = tuple(_kinds(image))
            pixels = to_rgb(image)
    except Exception as error:
        return Facts(problem=reason(error))
    return facts_of(np.asarray(pixels), kinds)


def facts_of(pixels: np.ndarray, kinds: tuple[str, ...] = ()) -> Facts:
    """The facts of decoded pixels (h, w, 3) uint8."""
    height, width, _ = pixels.shape
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, person=b"%dx%d" % (width, height))
    return Facts(width, height, kinds, digest.digest())


def _kinds(image: Image.Image) -> Iterator[str]:
    """Of an opened image whose pixels were not read yet: the file's own form is gone after that."""
    form = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    animated = getattr(image, "is_animated", False)
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        yield "black and white" if image.mode == "1" else "grey"
    elif image.mode in ("P", "PA"):
        yield "palette"
    elif image.mode not in ("RGB", "RGBA", "RGBX"):
        yield image.mode
    if ";16" in form or image.mode == "I" or image.mode.startswith("I;16"):
        yield "16-bit"
    if image.mode == "F":
        yield "float"
    if image.has_transparency_data:
        yield "alpha"
    if orientation(image) != 1:
        yield "turned by EXIF"
    if animated:
        yield "animated"


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> Iterator[Result]:
    """`map` over several threads, results in the order of the items; few are under way or waiting at any time."""
    threads = threads or min(_MOST_THREADS, cores())
    rest = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(work, item) for item in islice(rest, 4 * threads))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
