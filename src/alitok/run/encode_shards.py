"""A whole source of images to a store of codes, by one process or by many.

Enters: a tokenizer, a source and the processes. Leaves: a finished store, or as much of it as this call had to make;
a call that is killed loses the shard it was at. Shapes: B views at a time, C views of an image, T codes of a sequence.

The codes do not depend on who made them: shards are ranges of images chosen by the numbers of images and of views
alone, and what is encoded together lies in one shard and is the same views each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.codes.shards import StoreHead, StoreWriter, as_stored, crop_names, shard_images
from alitok.data.crops import CropRecipe
from alitok.data.loader import read_ahead
from alitok.data.sources.builtin import PhotoTrainSource
from alitok.data.sources.decoded import ImageSource, crops_per_image
from alitok.run.tokenize import codes_of
from alitok.tokenizer import Tokenizer


@dataclass(frozen=True)
class Origin:
    """Where images and tokenizer are from; remembered in the store.

    Attributes:
        source: the data.
        contents: its hash, as `Splits.contents`.
        split: which of its images: `train`, `val` or `all`.
        tokenizer: where the tokenizer was read from; a hint for people and for `alitok data show`.
        left_out: key and reason of each image that could not be used.
    """

    source: str
    contents: str
    split: str
    tokenizer: str = ""
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Encoded:
    """What `encode_store` did.

    Attributes:
        head: of the store.
        made: shards that were not finished before, over all processes of this call.
        whole: whether the store is finished; if not, other parts have shards to make.
    """

    head: StoreHead
    made: int
    whole: bool


def encode_store(
    tokenizer: Tokenizer,
    source: ImageSource,
    out: Path,
    *,
    recipe: CropRecipe,
    origin: Origin,
    world: World,
    part: tuple[int, int] = (0, 1),
    batch_size: int = 256,
    workers: int = 0,
    images_per_shard: int | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Write the codes of all views of all images, or go on where an earlier call stopped.

    All processes of `world` call this with the same arguments.

    Args:
        tokenizer: on `world.device` and in evaluation mode.
        source: the images, of which broken ones have been left out.
        out: the directory of the store.
        recipe: the views of each image.
        origin: where all of this is from.
        world: the processes that share the shards.
        part: number of this independent job and of all, each a call of its own.
        batch_size: views encoded at a time, a whole number of images where they fit.
        workers: processes that read images ahead; their number changes no code.
        images_per_shard: None chooses by the numbers of images and views.
        fresh: throw away the store that stands at `out`.
        progress: called with the images that this process has encoded, and has to encode.

    Raises:
        AlitokError: the source is empty, an image cannot be read, or `out` holds something else than this store.
    """
    if not len(source):
        raise AlitokError(f"There is nothing to encode to {out}: {source.name} is empty.")

    def begin() -> tuple[StoreHead, list[int]]:
        head = store_head(tokenizer, source, recipe, origin, batch_size, images_per_shard)
        return head, StoreWriter(out, head).prepare(fresh)

    head, unfinished = world.on_rank0(begin)
    writer = StoreWriter(out, head)
    job, jobs = part
    share = [number for number in unfinished if number % jobs == job]
    _encode_shards(tokenizer, source, recipe, writer, share[world.rank :: world.size], world.device, workers, progress)
    world.barrier()
    return Encoded(head, len(share), world.on_rank0(writer.finish))


def store_head(
    tokenizer: Tokenizer,
    source: ImageSource,
    recipe: CropRecipe,
    origin: Origin,
    batch_size: int,
    images_per_shard: int | None = None,
) -> StoreHead:
    """All that decides the codes of a store; reads the first image and all keys."""
    views = crops_per_image(source, recipe)
    listing = hashlib.sha256()
    for index, label in enumerate(source.labels.tolist()):
        listing.update(f"{source.key(index)}\0{label}\n".encode("utf-8", "surrogateescape"))
    return StoreHead(
        images=len(source),
        length=tokenizer.config.sequence_length,
        codebook_size=tokenizer.config.codebook_size,
        recipe=recipe,
        crops=crop_names(recipe, views, drawn=isinstance(source, PhotoTrainSource)),
        classes=source.classes,
        tokenizer=tokenizer.codes_fingerprint(),
        tokenizer_path=origin.tokenizer,
        source=origin.source,
        contents=origin.contents,
        split=origin.split,
        image_size=source.size,
        listing=listing.hexdigest()[:16],
        left_out=origin.left_out,
        batch_size=batch_size,
        shard_images=images_per_shard or shard_images(len(source), views),
    )


def _encode_shards(
    tokenizer: Tokenizer,
    source: ImageSource,
    recipe: CropRecipe,
    writer: StoreWriter,
    numbers: list[int],
    device: torch.device,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    head = writer.head
    views = _Views(source, recipe, head, numbers)
    total, done = sum(len(head.shard(number)) for number in numbers), 0
    with closing(read_ahead(views, range(len(views.blocks)), workers)) as blocks:
        for number in numbers:
            images = head.shard(number)
            codes = []
            for block in islice(blocks, -(-len(images) // views.size)):
                for chunk in block.split(head.batch_size):  # one image may have more views than that
                    found = codes_of(tokenizer, chunk.numpy(), device)
                    codes.append(as_stored(found, head.codebook_size))
                done += len(block) // len(head.crops)
                if progress is not None:
                    progress(done, total)
            labels = source.labels[images.start : images.stop]
            writer.write(number, np.concatenate(codes), labels, [source.key(image) for image in images])


class _Views(Dataset[torch.Tensor | AlitokError]):
    """Item k is the views of the k-th block of images (B, 3, size, size) uint8; no block crosses the edge of a shard.

    Args:
        source: the images.
        recipe: their views.
        head: of the store.
        numbers: the shards that are read, in order.
    """

    def __init__(self, source: ImageSource, recipe: CropRecipe, head: StoreHead, numbers: list[int]) -> None:
        self._source, self._recipe, self._crops = source, recipe, len(head.crops)
        self.size = max(1, head.batch_size // self._crops)
        shards = (head.shard(number) for number in numbers)
        self.blocks = [
            shard[first : first + self.size] for shard in shards for first in range(0, len(shard), self.size)
        ]

    def __getitem__(self, number: int) -> torch.Tensor | AlitokError:
        try:
            views = [self._source.views(image, self._recipe) for image in self.blocks[number]]
        except AlitokError as error:
            return error
        assert all(len(of_one) == self._crops for of_one in views), "all images have the same number of views"
        return torch.from_numpy(np.concatenate(views))
