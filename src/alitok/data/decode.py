"""Encoded images to upright RGB, and one sentence on why an image cannot be decoded."""

from __future__ import annotations

import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import TypeVar

from PIL import Image

from alitok.core.errors import AlitokError, error_text
from alitok.core.system import cores
from alitok.data.crops import to_rgb
from alitok.data.sources.images import EncodedImages

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST_SIDE = 8  # px
_MOST_ENLARGED = 4  # times
_MOST_THREADS = 16
_STARTS_PROGRAMS = ("EPS",)  # Ghostscript, also for a .jpg that holds EPS


class BrokenImageError(AlitokError):
    """One image cannot be used; `reason` as in `Broken`."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)  # both, so that a worker can pickle it
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key} {self.reason}; replace or remove it."


def decode(encoded: bytes) -> Image.Image:
    """RGB, upright; raises whatever Pillow raises, see `reason`."""
    with open_encoded(encoded) as image:
        return to_rgb(image)


def open_encoded(encoded: bytes) -> Image.Image:
    """Read the header of an image in any format whose decoder does not start another program."""
    if not encoded:
        raise EOFError("the file is empty")
    return Image.open(io.BytesIO(encoded), formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _STARTS_PROGRAMS)


def read_image(images: EncodedImages, index: int) -> Image.Image:
    """One image, RGB and upright; BrokenImageError where it cannot be decoded, AlitokError where no image can be."""
    try:
        return decode(images.encoded(index))
    except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
        raise BrokenImageError(images.key(index), reason(error)) from None


def header_size(images: EncodedImages, index: int) -> tuple[int, int] | None:
    """Width and height from the header of an image; None where it, AlitokError where no image, can be read."""
    try:
        with open_encoded(images.encoded(index)) as image:
            return image.size
    except Exception as error:
        reason(error)
        return None


def reason(error: Exception) -> str:
    """What reading an image raised, as the end of a sentence that begins with it; an AlitokError is raised again."""
    match error:
        case BrokenImageError():
            return error.reason
        case AlitokError():  # not about this image
            raise error
        case FileNotFoundError():
            return "does not exist"
        case Image.DecompressionBombError():
            return f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        case Image.UnidentifiedImageError():
            return "is not an image that Pillow can read"
        case OSError(strerror=str(text)):  # of the system; Pillow's own have a text only
            return f"cannot be read ({text})"
    return f"cannot be decoded ({error_text(error, whole=True)})"


def too_small(width: int, height: int, size: int) -> str | None:
    """Why an image is too small for training at `size` px; None when it is not."""
    least = max(_LEAST_SIDE, size // _MOST_ENLARGED)
    if min(width, height) >= least:
        return None
    return f"is {width} x {height} px; an image size of {size} needs at least {least} px"


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings on odd files; around threads enter it once, as filters belong to the whole process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> Iterator[Result]:
    """`map` over several threads, results in the order of the items; few items are in flight at any time."""
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
