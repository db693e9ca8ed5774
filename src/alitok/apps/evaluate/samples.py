"""The images that an evaluation judges: drawn by a model on the way, or read from a folder, archive or npz file.

Enters: what the user wrote for them. Leaves: blocks of images, each of which any process can make on its own, and all
that decides them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.config import to_dict
from alitok.core.console import reporter
from alitok.core.device import Precision
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.crops import to_array
from alitok.data.decode import header_size, in_threads, read_image, silence_pillow
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.images import EncodedImages
from alitok.data.sources.opening import open_images
from alitok.metrics.adm import NpzImages
from alitok.sampling.job import SamplingJob, blocks_of, model_hash, pixel_precision, sample_blocks
from alitok.sampling.pipeline import Pipeline

_BLOCK = 256  # images of files that are read as a whole


class Evaluated(Protocol):
    """A fixed number of images of one size, numbered.

    Attributes:
        name: for people.
        count: N.
        size: pixels a side.
        classes: the class names, by number; empty where classes are not known.
        settings: all that decides the images, and nothing that does not.
        notes: sentences that a reader of the numbers must know.
    """

    name: str
    count: int
    size: int
    classes: tuple[str, ...]
    settings: dict[str, Any]
    notes: tuple[str, ...]

    def begin(self, decided: dict[str, Any] | None) -> dict[str, Any]:
        """What an earlier start decided, or now decides where there was none: `block`, the size of blocks, and more.

        Called on every process before `draw`.
        """
        ...

    def draw(self, wanted: Sequence[int], world: World) -> Iterator[ImageBlock]:
        """This process' share of the blocks with these numbers.

        Raises:
            AlitokError: an image cannot be made or read.
        """
        ...


class ModelImages:
    """EncodedImages that a model draws as they are needed.

    Args:
        pipeline: on the device of this process.
        plan: what is drawn.
        batch_size: images at a time.
        name: of the model.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, pipeline: Pipeline, plan: SamplingJob, batch_size: int, name: str) -> None:
        self.pipeline, self.plan, self.name = pipeline, plan, name
        self.batch_size = batch_size
        self._pixels: Precision = "fp32"
        self._blocks = blocks_of(plan.count, batch_size)
        self.count, self.size = plan.count, pipeline.tokenizer.config.image_size
        generator = pipeline.generator
        self.classes = generator.class_names or tuple(map(str, range(generator.config.classes)))
        self.settings = {
            "model": model_hash(pipeline),
            "classes": list(plan.classes),
            "count": plan.count,
            "seed": plan.seed,
            "precision": pipeline.precision,
            **to_dict(plan.sampling),
        }

    def begin(self, decided: dict[str, Any] | None) -> dict[str, Any]:
        """The blocks and the decoder's precision of an earlier start, or those of this one."""
        if decided is None:
            decided = {"block": self._blocks.size, "pixels": pixel_precision(self.pipeline, self.plan)}
        self._blocks, self._pixels = Blocks(self.count, decided["block"]), decided["pixels"]
        return decided

    def draw(self, wanted: Sequence[int], world: World) -> Iterator[ImageBlock]:
        """This process' share of the blocks with these numbers."""
        return sample_blocks(
            self.pipeline,
            self.plan,
            world,
            batch_size=min(self.batch_size, self._blocks.size),
            pixels=self._pixels,
            blocks=self._blocks,
            wanted=wanted,
        )


@dataclass
class StoredImages:
    """EncodedImages that lie in files.

    Attributes:
        read: the images (B, 3, size, size) uint8 of a range.
        labels: (N,) int64; None where classes are not known.
    """

    name: str
    count: int
    size: int
    classes: tuple[str, ...]
    settings: dict[str, Any]
    read: Callable[[range], np.ndarray]
    labels: np.ndarray | None
    notes: tuple[str, ...] = ()
    block: int = _BLOCK

    def begin(self, decided: dict[str, Any] | None) -> dict[str, Any]:
        """Blocks of one size."""
        decided = decided or {"block": self.block}
        self.block = decided["block"]
        return decided

    def draw(self, wanted: Sequence[int], world: World) -> Iterator[ImageBlock]:
        """This process' share of the blocks with these numbers."""
        blocks = Blocks(self.count, self.block)
        for number in sorted(wanted)[world.rank :: world.size]:
            rows = blocks[number]
            labels = np.full(len(rows), -1) if self.labels is None else self.labels[rows.start : rows.stop]
            yield ImageBlock(number, rows, labels.astype(np.int64), self.read(rows))


def npz_images(path: Path) -> StoredImages:
    """The images of an npz file as `alitok sample` and ADM write it: `arr_0` (N, h, h, 3), and class numbers `arr_1`.

    Raises:
        AlitokError: the file is missing, damaged, or holds something else.
    """
    images = NpzImages(path)
    settings = {"images": images.fingerprint(), "count": images.count}
    labels = images.labels
    notes: tuple[str, ...] = ()
    if labels is not None and labels[0] != labels[-1] and (np.diff(labels) >= 0).all():
        notes = (
            "The samples stand class by class, and the Inception Score is taken over 5,000 in their order: it is far "
            "lower than of samples whose classes take turns.",
        )
    return StoredImages(str(path), images.count, images.side, (), settings, images.read, labels, notes)


def folder_images(data: str, console: Console) -> StoredImages:
    """All images of a source as they are: none is cut or resized, which would be judged along with them.

    Raises:
        AlitokError: there is no such source, an image cannot be read, or they are not all squares of one size.
    """
    if data in BUILTIN:
        raise AlitokError(f"{data} are real images, not samples; give a model, or samples in a folder or npz file.")
    say = reporter(console)
    images = open_images(data, say)
    for note in images.notes:
        say(note)
    if images.left_out:
        key, reason = images.left_out[0]
        raise AlitokError(f"{key} of {data} {reason}; all images are judged, so replace or remove it.")
    size = _common_side(images)
    # Folders list images class by class, but every part of a job should hold all classes.
    order = np.random.default_rng(0).permutation(len(images))
    settings = {"images": images.contents, "count": len(images), "size": size, "order": "shuffled"}
    several = len(images.classes) > 1  # a folder of images alone is one class, which says nothing

    def read(rows: range) -> np.ndarray:
        with silence_pillow():
            wanted = order[rows.start : rows.stop].tolist()
            return np.stack(list(in_threads(lambda row: to_array(read_image(images, row)), wanted)))

    return StoredImages(
        data,
        len(images),
        size,
        images.classes if several else (),
        settings,
        read,
        images.labels[order] if several else None,
    )


def _common_side(images: EncodedImages) -> int:
    """Pixels a side of all images, as their headers tell; none is decoded for it.

    Raises:
        AlitokError: one is no square or of another size than the first, or cannot be read.
    """
    side = 0
    with silence_pillow():
        sizes = in_threads(lambda row: header_size(images, row), range(len(images)))
        for row, size in enumerate(sizes):
            if size is None:
                read_image(images, row)  # says why it cannot be read
                raise AlitokError(f"{images.key(row)} of {images.name} does not tell its size; replace or remove it.")
            side = side or size[0]
            if size != (side, side):
                wanted = f"not {side} x {side} as the first one" if row else "no square"
                raise AlitokError(
                    f"{images.key(row)} of {images.name} has {size[0]} x {size[1]} pixels, {wanted}; samples are "
                    "judged as they are, so write them all as squares of one size."
                )
    return side
