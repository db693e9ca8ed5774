"""The pictures that an evaluation judges: drawn by a model on the way, or read from a folder, archive or npz file.

Enters: what the user wrote for them. Leaves: blocks of pictures, each of which any process can make on its own, and all
that decides them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from alitok.core.blocks import Blocks, PictureBlock
from alitok.core.config import to_dict
from alitok.core.device import Precision
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.builtin import BUILTIN
from alitok.data.crops import to_array
from alitok.data.decode import header_size, in_threads, read_picture, without_remarks
from alitok.data.opening import open_pictures
from alitok.data.pictures import Pictures
from alitok.metrics.adm import NpzPictures
from alitok.run.originals import say_on
from alitok.sampling.job import SamplingPlan, blocks_of, draw_many, pixel_precision
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.plan import model_hash

_BLOCK = 256  # pictures of files that are read as a whole


class Evaluated(Protocol):
    """A fixed number of pictures of one size, numbered.

    Attributes:
        name: for people.
        count: N.
        size: pixels a side.
        classes: the class names, by number; empty where classes are not known.
        settings: all that decides the pictures, and nothing that does not.
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

    def draw(self, wanted: Sequence[int], world: World) -> Iterator[PictureBlock]:
        """This process' share of the blocks with these numbers.

        Raises:
            AlitokError: a picture cannot be made or read.
        """
        ...


class ModelPictures:
    """Pictures that a model draws as they are needed.

    Args:
        pipeline: on the device of this process.
        plan: what is drawn.
        batch_size: pictures at a time.
        name: of the model.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, pipeline: Pipeline, plan: SamplingPlan, batch_size: int, name: str) -> None:
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

    def draw(self, wanted: Sequence[int], world: World) -> Iterator[PictureBlock]:
        """This process' share of the blocks with these numbers."""
        return draw_many(
            self.pipeline,
            self.plan,
            world,
            batch_size=min(self.batch_size, self._blocks.size),
            pixels=self._pixels,
            blocks=self._blocks,
            wanted=wanted,
        )


@dataclass
class StoredPictures:
    """Pictures that lie in files.

    Attributes:
        read: the pictures (B, 3, size, size) uint8 of a range.
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

    def draw(self, wanted: Sequence[int], world: World) -> Iterator[PictureBlock]:
        """This process' share of the blocks with these numbers."""
        blocks = Blocks(self.count, self.block)
        for number in sorted(wanted)[world.rank :: world.size]:
            rows = blocks[number]
            labels = np.full(len(rows), -1) if self.labels is None else self.labels[rows.start : rows.stop]
            yield PictureBlock(number, rows, labels.astype(np.int64), self.read(rows))


def npz_pictures(path: Path) -> StoredPictures:
    """The pictures of an npz file as `alitok sample` and ADM write it: `arr_0` (N, h, h, 3), and class numbers `arr_1`.

    Raises:
        AlitokError: the file is missing, damaged, or holds something else.
    """
    pictures = NpzPictures(path)
    settings = {"pictures": pictures.fingerprint(), "count": pictures.count}
    labels = pictures.labels
    notes: tuple[str, ...] = ()
    if labels is not None and labels[0] != labels[-1] and (np.diff(labels) >= 0).all():
        notes = (
            "The samples stand class by class, and the Inception Score is taken over 5,000 in their order: it is far "
            "lower than of samples whose classes take turns.",
        )
    return StoredPictures(str(path), pictures.count, pictures.side, (), settings, pictures.read, labels, notes)


def folder_pictures(data: str, console: Console) -> StoredPictures:
    """All pictures of a source as they are: none is cut or resized, which would be judged along with them.

    Raises:
        AlitokError: there is no such source, a picture cannot be read, or they are not all squares of one size.
    """
    if data in BUILTIN:
        raise AlitokError(f"{data} are real pictures, not samples; give a model, or samples in a folder or npz file.")
    say = say_on(console)
    pictures = open_pictures(data, say)
    for note in pictures.notes:
        say(note)
    if pictures.left_out:
        key, reason = pictures.left_out[0]
        raise AlitokError(f"{key} of {data} {reason}; all pictures are judged, so replace or remove it.")
    size = _common_side(pictures)
    # Folders list pictures class by class, but every part of a job should hold all classes.
    order = np.random.default_rng(0).permutation(len(pictures))
    settings = {"pictures": pictures.contents, "count": len(pictures), "size": size, "order": "shuffled"}
    several = len(pictures.classes) > 1  # a folder of pictures alone is one class, which says nothing

    def read(rows: range) -> np.ndarray:
        with without_remarks():
            wanted = order[rows.start : rows.stop].tolist()
            return np.stack(list(in_threads(lambda row: to_array(read_picture(pictures, row)), wanted)))

    return StoredPictures(
        data,
        len(pictures),
        size,
        pictures.classes if several else (),
        settings,
        read,
        pictures.labels[order] if several else None,
    )


def _common_side(pictures: Pictures) -> int:
    """Pixels a side of all pictures, as their headers tell; none is decoded for it.

    Raises:
        AlitokError: one is no square or of another size than the first, or cannot be read.
    """
    side = 0
    with without_remarks():
        sizes = in_threads(lambda row: header_size(pictures, row), range(len(pictures)))
        for row, size in enumerate(sizes):
            if size is None:
                read_picture(pictures, row)  # says why it cannot be read
                raise AlitokError(
                    f"{pictures.key(row)} of {pictures.name} does not tell its size; replace or remove it."
                )
            side = side or size[0]
            if size != (side, side):
                wanted = f"not {side} x {side} as the first one" if row else "no square"
                raise AlitokError(
                    f"{pictures.key(row)} of {pictures.name} has {size[0]} x {size[1]} pixels, {wanted}; samples are "
                    "judged as they are, so write them all as squares of one size."
                )
    return side
