"""A whole source of pictures to a store of codes, by one process or by many.

Enters: a tokenizer, a source and the processes. Leaves: a finished store, or as much of it as this call had to make;
a call that is killed loses the shard it was at. Shapes: B views at a time, C views of a picture, T codes of a sequence.

The codes do not depend on who made them: shards are ranges of pictures chosen by the numbers of pictures and of views
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
from alitok.data.ahead import read_ahead
from alitok.data.builtin import PhotoTrainSource
from alitok.data.crops import CropRecipe
from alitok.data.shards import StoreHead, StoreWriter, as_stored, crop_names, shard_pictures
from alitok.data.source import ImageSource, crops_per_picture
from alitok.run.tokenize import codes_of
from alitok.tokenizer import Tokenizer


@dataclass(frozen=True)
class Origin:
    """Where pictures and tokenizer are from; remembered in the store.

    Attributes:
        source: the data.
        contents: its hash, as `Splits.contents`.
        split: which of its pictures: `train`, `heldout` or `all`.
        tokenizer: where the tokenizer was read from; a hint for people and for `alitok data show`.
        left_out: key and reason of each picture that could not be used.
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
    pictures_per_shard: int | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Write the codes of all views of all pictures, or go on where an earlier call stopped.

    All processes of `world` call this with the same arguments.

    Args:
        tokenizer: on `world.device` and in evaluation mode.
        source: the pictures, of which broken ones have been left out.
        out: the directory of the store.
        recipe: the views of each picture.
        origin: where all of this is from.
        world: the processes that share the shards.
        part: number of this independent job and of all, each a call of its own.
        batch_size: views encoded at a time, a whole number of pictures where they fit.
        workers: processes that read pictures ahead; their number changes no code.
        pictures_per_shard: None chooses by the numbers of pictures and views.
        fresh: throw away the store that stands at `out`.
        progress: called with the pictures that this process has encoded, and has to encode.

    Raises:
        AlitokError: the source is empty, a picture cannot be read, or `out` holds something else than this store.
    """
    if not len(source):
        raise AlitokError(f"There is nothing to encode to {out}: {source.name} is empty.")

    def begin() -> tuple[StoreHead, list[int]]:
        head = store_head(tokenizer, source, recipe, origin, batch_size, pictures_per_shard)
        return head, StoreWriter(out, head).prepare(fresh)

    head, unfinished = world.together(begin)
    writer = StoreWriter(out, head)
    job, jobs = part
    share = [number for number in unfinished if number % jobs == job]
    _encode_shards(tokenizer, source, recipe, writer, share[world.rank :: world.size], world.device, workers, progress)
    world.barrier()
    return Encoded(head, len(share), world.together(writer.finish))


def store_head(
    tokenizer: Tokenizer,
    source: ImageSource,
    recipe: CropRecipe,
    origin: Origin,
    batch_size: int,
    pictures_per_shard: int | None = None,
) -> StoreHead:
    """All that decides the codes of a store; reads the first picture and all keys."""
    views = crops_per_picture(source, recipe)
    listing = hashlib.sha256()
    for index, label in enumerate(source.labels.tolist()):
        listing.update(f"{source.key(index)}\0{label}\n".encode("utf-8", "surrogateescape"))
    return StoreHead(
        pictures=len(source),
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
        shard_pictures=pictures_per_shard or shard_pictures(len(source), views),
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
            pictures = head.shard(number)
            codes = []
            for block in islice(blocks, -(-len(pictures) // views.size)):
                for chunk in block.split(head.batch_size):  # one picture may have more views than that
                    found = codes_of(tokenizer, chunk.numpy(), device)
                    codes.append(as_stored(found, head.codebook_size))
                done += len(block) // len(head.crops)
                if progress is not None:
                    progress(done, total)
            labels = source.labels[pictures.start : pictures.stop]
            writer.write(number, np.concatenate(codes), labels, [source.key(picture) for picture in pictures])


class _Views(Dataset[torch.Tensor | AlitokError]):
    """Item k is the views of the k-th block of pictures (B, 3, size, size) uint8; no block crosses the edge of a shard.

    Args:
        source: the pictures.
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
            views = [self._source.views(picture, self._recipe) for picture in self.blocks[number]]
        except AlitokError as error:
            return error
        assert all(len(of_one) == self._crops for of_one in views), "all pictures have the same number of views"
        return torch.from_numpy(np.concatenate(views))
