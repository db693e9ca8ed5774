"""`alitok encode`: images of any source to a code store, by one process, many, or independent jobs.

Codes do not depend on who encoded them: shards are ranges of images, chosen by the numbers of images and crops alone,
and what is encoded in one batch lies in one shard. A call that is killed loses the shard it was encoding.
Shapes: B crops at a time, C crops of an image, T codes of a sequence.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch.utils.data import Dataset

from alitok.core import images as pixels
from alitok.core.console import counted, progress_bar, reporter
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.system import stoppable
from alitok.data.codes.shards import (
    StoreHead,
    StoreWriter,
    as_stored,
    crop_names,
    find_head,
    require_store,
    shard_images,
)
from alitok.data.crops import CropRecipe
from alitok.data.loader import read_ahead
from alitok.data.sources.builtin import PhotoTrainSource
from alitok.data.sources.decoded import ImageSource, crops_per_image
from alitok.data.sources.images import Broken
from alitok.data.split import Splits, joined
from alitok.run.images import open_images, report_left_out, verify_images
from alitok.run.options import EncodeOptions
from alitok.tokenizer import Tokenizer


def run_encode(options: EncodeOptions) -> None:
    """Write the store, or what is missing of it; every rank calls this.

    Raises:
        AlitokError: tokenizer or data cannot be used, too many images are broken, or `out` is not this store.
    """
    began = time.monotonic()
    part = _part(options)
    if options.batch_size < 1 or options.workers < 0:
        raise AlitokError("--batch-size must be at least 1 and --workers at least 0.")
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        tokenizer = Tokenizer.from_pretrained(options.tokenizer).to(world.device)
        if options.fresh:
            world.on_rank0(lambda: require_store(options.out))  # before images are checked for hours
        splits = open_images(options.data, tokenizer.config.image_size, options.seed, console)
        broken = _broken(options, splits, world, console)
        splits = splits.without({key for key, _ in broken})
        source = joined(splits, options.crops) if options.split == "all" else getattr(splits, options.split)
        saved = options.tokenizer.resolve() if options.tokenizer.exists() else options.tokenizer
        origin = Origin(splits.name, splits.contents, options.split, str(saved), tuple(broken))
        with progress_bar(console, f"{source.name} to codes", len(source)) as bar:
            encoded = encode_store(
                tokenizer,
                source,
                options.out,
                recipe=options.crops,
                origin=origin,
                world=world,
                part=part,
                batch_size=options.batch_size,
                workers=options.workers,
                fresh=options.fresh,
                progress=lambda done, total: bar.advance(done, {}, total),
            )
        _report(console, options, encoded, time.monotonic() - began)


def _part(options: EncodeOptions) -> tuple[int, int]:
    """Number of this job, from 0, and of all."""
    if options.part is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", options.part)
    job, jobs = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= job <= jobs:
        raise AlitokError(f"--part {options.part}: write it as i/n with i from 1 to n, such as 1/4.")
    if options.fresh and jobs > 1:
        raise AlitokError("--fresh with --part would delete what the other parts made; delete the store instead.")
    return job - 1, jobs


def _broken(options: EncodeOptions, splits: Splits, world: World, console: Console) -> list[Broken]:
    """The images to leave out: those of an earlier start, or those found by decoding all of them."""

    def earlier() -> list[Broken] | None:
        head = None if options.fresh else find_head(options.out)
        if head is None or (head.source, head.contents, head.split) != (splits.name, splits.contents, options.split):
            return None
        return [Broken(*image) for image in head.left_out]

    broken = world.on_rank0(earlier)
    if broken is None:
        broken = verify_images(splits, options.split, world, console)
    report_left_out(broken, console)
    return broken


def _report(console: Console, options: EncodeOptions, encoded: Encoded, seconds: float) -> None:
    head, out = encoded.head, options.out
    if not encoded.whole:
        made = f"{encoded.made} of {counted(head.shards, 'shard')}"
        reporter(console)(f"Part {options.part} is done, {made}; the store is complete when all parts are.")
        return
    sequences = head.images * len(head.crops)
    each, bare = sum(file.stat().st_size for file in out.iterdir()) / sequences, 2 * head.length
    made = f"{counted(head.images, 'image')} x {counted(len(head.crops), 'crop')}"
    reporter(console)(
        f"{made} = {counted(sequences, 'sequence')} of {head.length} codes in {counted(head.shards, 'shard')}; "
        f"{each:,.1f} bytes a sequence, {each / bare:.3f} x its codes; "
        f"{f'{seconds:.1f} s' if encoded.made else 'nothing to do'}: {out}"
    )


@dataclass(frozen=True)
class Origin:
    """Where images (their hash: `Splits.contents`) and tokenizer are from, stored with the codes.

    `tokenizer` is a hint for people; `left_out` has key and reason of each image that could not be used.
    """

    source: str
    contents: str
    split: str
    tokenizer: str = ""
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Encoded:
    """What `encode_store` did: `made` shards over all ranks; not `whole` while other parts have shards to make."""

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
    """Write the codes of all crops of all images, or resume; all ranks of `world` call this with the same arguments.

    `tokenizer` is on `world.device` in evaluation mode, and `source` has no broken images. `part` is the number of this
    independent job and of all. `batch_size` is in views, a whole number of images where they fit; `images_per_shard`
    None chooses by the numbers of images and views. Codes do not depend on `workers`. `progress` gets the numbers of
    images that this rank has encoded and has to encode.

    Raises:
        AlitokError: the source is empty, an image cannot be read, or `out` holds something else than this store.
    """
    if not len(source):
        raise AlitokError(f"{source.name} has no images, so there is nothing to encode to {out}.")

    def begin() -> tuple[StoreHead, list[int]]:
        head = _head(tokenizer, source, recipe, origin, batch_size, images_per_shard)
        return head, StoreWriter(out, head).prepare(fresh)

    head, unfinished = world.on_rank0(begin)
    writer = StoreWriter(out, head)
    job, jobs = part
    todo = [number for number in unfinished if number % jobs == job]
    _encode_shards(tokenizer, source, recipe, writer, todo[world.rank :: world.size], world.device, workers, progress)
    world.barrier()
    return Encoded(head, len(todo), world.on_rank0(writer.finish))


def _head(
    tokenizer: Tokenizer,
    source: ImageSource,
    recipe: CropRecipe,
    origin: Origin,
    batch_size: int,
    images_per_shard: int | None,
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
    """Item k: the views (B, 3, size, size) uint8 of block k of the images in shards `numbers`; no block spans two."""

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


def codes_of(tokenizer: Tokenizer, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Images (B, 3, h, h) uint8 -> codes (B, T) int64; `tokenizer` is on `device` and in evaluation mode."""
    with torch.inference_mode():  # in float32: a rounded feature can have another nearest code
        return tokenizer.encode(pixels.to_float(torch.from_numpy(images).to(device))).cpu().numpy()
