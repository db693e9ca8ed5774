"""What a preflight found: numbers with their bounds, sentences for what is wrong, and sheets of named images.

Enters: one finding at a time, on any process. Leaves: `preflight.json`, PNG files, and the first fault as an error.
Shapes: N images (N, 3, h, w) uint8.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alitok.core import images as pixels
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import finite, write_bytes, write_json

_CLASSES, _EACH = 24, 8  # rows and columns of a sheet of classes
_CELL, _GAP, _NAME = 64, 4, 160  # pixels: an image's side at least, between images, for a name


class Findings:
    """The findings of one process; `conclude` brings those of all together.

    Args:
        stage: that is about to be trained.
        directory: where they are written.
    """

    def __init__(self, stage: str, directory: Path) -> None:
        self.stage, self.directory = stage, directory
        self.numbers: list[dict[str, Any]] = []
        self.faults: list[str] = []

    def tell(self, name: str, value: Any) -> None:
        """Record a number that is neither right nor wrong."""
        self.numbers.append({"name": name, "value": value})

    def check(self, name: str, value: Any, bound: str, holds: bool, fault: str) -> bool:
        """Record a number and whether it holds.

        Args:
            name: of the number.
            value: the number.
            bound: what it should be, for people.
            holds: whether it is.
            fault: if not, what is wrong and what to do.
        """
        self.numbers.append({"name": name, "value": value, "bound": bound, "holds": bool(holds)})
        if not holds:
            self.faults.append(fault)
        return bool(holds)

    def sheet(self, name: str, rows: Iterable[tuple[str, np.ndarray]]) -> None:
        """Write rows of images (N, 3, h, w), each beside its name."""
        write_bytes(self.directory / f"{name}.png", named_rows(list(rows)))

    def conclude(self, world: World, last: bool = False) -> None:
        """Write all numbers if this is the last time or something is wrong; every process calls this.

        Raises:
            AlitokError: something is wrong on any process.
        """
        everywhere = [fault for faults in world.gather(self.faults) for fault in faults]
        path = self.directory / "preflight.json"
        if last or everywhere:
            report = {"stage": self.stage, "passed": not everywhere, "faults": everywhere, "numbers": self.numbers}
            world.on_rank0(lambda: write_json(path, finite(report)))
        if everywhere:
            world.on_rank0(lambda: _fail(f"Preflight of {self.stage}: {everywhere[0]} All numbers are in {path}."))


def _fail(sentence: str) -> None:
    raise AlitokError(sentence)


def by_class(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Rows for a sheet: the first images of each of the first classes that there are; labels (N,)."""
    there = np.unique(labels)[:_CLASSES]
    return [(classes[label], images[labels == label][:_EACH]) for label in there.tolist()]


def rows_by_class(labels: np.ndarray, classes: int) -> np.ndarray:
    """Which images a sheet of the first classes shows, spread over each class; labels (N,)."""
    chosen = []
    for label in range(min(classes, _CLASSES)):
        rows = np.flatnonzero(labels == label)
        chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, min(_EACH, len(rows))).astype(int))])
    return np.concatenate(chosen)


def named_rows(rows: list[tuple[str, np.ndarray]]) -> bytes:
    """A PNG file of rows of images, each beside its name."""
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
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Broken into lines that fit beside the images, as many as a row is high."""
    lines = [""]
    for letter in text:
        if font.getlength(lines[-1] + letter) > _NAME - 2 * _GAP:
            lines.append("")
        lines[-1] += letter
    return "\n".join(lines[:4])
