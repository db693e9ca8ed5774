"""The images of a run, opened and checked, with what there is to tell of them told; and sheets of them.

Enters: what the user wrote for the data. Leaves: its splits, and the images that cannot be used.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from alitok.core.console import progress_bar, reporter
from alitok.core.distributed import World
from alitok.data.sources.images import Broken
from alitok.data.sources.opening import open_splits
from alitok.data.split import Splits, check_broken, list_broken

SplitName = Literal["all", "train", "val"]
_CAPTION, _GAP = 14, 4  # pixels on a sheet: below each image, and around it


def open_images_of(data: str, size: int, seed: int, console: Console) -> Splits:
    """Open a data set and tell what was found in it that is not used.

    Raises:
        AlitokError: there is no such data set, or its images cannot be used.
    """
    say = reporter(console)
    splits = open_splits(data, size, seed, say)
    for note in splits.notes:
        say(note)
    return splits


def file_name(data: str) -> str:
    """A name for files and folders from what the user wrote for the data."""
    last = str(Path(data.partition("?")[0]).resolve()).rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).strip("._") or "data"


def verify(splits: Splits, split: SplitName, world: World, console: Console) -> list[Broken]:
    """Read all images of a split once, shared out over the processes.

    Returns:
        The broken ones, the same on every process.

    Raises:
        AlitokError: they are too many to be left out.
    """
    sources = {"all": [splits.train, splits.val], "train": [splits.train], "val": [splits.val]}[split]
    broken: list[Broken] = []
    for source in sources:
        with progress_bar(console, source.name, len(source)) as bar:
            for found in world.gather(source.verify(bar.advance, (world.rank, world.size))):
                broken += found
    check_broken(broken, splits)
    return broken


def tell_left_out(broken: Sequence[Broken], console: Console) -> None:
    """Name images that are left out."""
    if broken:
        what = "1 broken image is" if len(broken) == 1 else f"{len(broken)} broken images are"
        reporter(console)(f"{what} left out:\n{list_broken(broken)}")


def captioned_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> bytes:
    """Square images of one size in rows, as much of its caption as fits below each, as the bytes of a PNG file."""
    side, font = images[0].width, ImageFont.load_default()
    across, down = side + _GAP, side + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, -(-len(images) // columns) * down + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = number % columns * across + _GAP, number // columns * down + _GAP
        sheet.paste(image, (left, top))
        draw.text((left, top + side), _fitting(caption, font, side), fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType knows Latin letters only
        text = text.encode("latin-1", "replace").decode("latin-1")
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
