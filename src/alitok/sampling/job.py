"""Many images of one job, shared out over processes; evaluation reads them from here without files between.

Enters: a pair of models, what is to be drawn, and the processes. Leaves: blocks of images with their labels.
Shapes: B images of a block, h image side.

A job is cut into blocks, and what is computed together lies in one block and is the same each time: codes in equal
batches counted from the block's first image, pixels in groups of sixteen. So neither the number of processes nor what
was drawn before changes what an image is computed from. Another batch size, or another choice of kernels on a CPU,
changes the rounding of the logits: with `fp32` this hardly ever changes a code, with `bf16` and `int8` it does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.device import Precision, free_memory
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.generator import Generator
from alitok.sampling import SampleRequest, SamplingConfig
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine
from alitok.sampling.memory import decoder_bytes, room
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.settings import EnginePrecision
from alitok.sampling.synthesize import synthesize

_GROUP = 16  # images whose pixels are computed together; the shape decides how a sum is rounded
_BATCH = {"cuda": 256}
_BATCH_ELSEWHERE = 64
_TRIAL = 2


@dataclass(frozen=True)
class SamplingPlan:
    """What a job draws. Image i has class `classes[i % C]`, so that every beginning of a job is balanced.

    Attributes:
        classes: C class numbers in the order in which they take turns.
        count: images in all; where C does not divide it, the first classes have one more.
        seed: of all images, which differ by their numbers.
        sampling: guidance and filters.
    """

    classes: tuple[int, ...]
    count: int
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        """Refuse jobs of nothing."""
        if self.count < 1 or not self.classes:
            raise AlitokError(f"{self.count} images of {len(self.classes)} classes cannot be drawn; ask for some.")

    def labels(self, images: range) -> np.ndarray:
        """The classes (B,) int64 of images."""
        return np.array(self.classes, np.int64)[np.arange(images.start, images.stop) % len(self.classes)]

    def requests(self, images: range) -> Iterator[SampleRequest]:
        """What the engine is asked for, one by one."""
        for index in images:
            yield SampleRequest(self.classes[index % len(self.classes)], self.seed, index, self.sampling)


def blocks_of(count: int, batch_size: int) -> Blocks:
    """A job's images in blocks of as many as are drawn at a time, in whole groups of pixels."""
    return Blocks(count, max(batch_size // _GROUP, 1) * _GROUP)


def draw_many(
    pipeline: Pipeline,
    plan: SamplingPlan,
    world: World,
    *,
    batch_size: int,
    pixels: Precision = "fp32",
    blocks: Blocks | None = None,
    wanted: Sequence[int] | None = None,
) -> Iterator[ImageBlock]:
    """Draw this process' share of a job; all processes call this with the same arguments.

    Args:
        pipeline: the pair, on the device of this process.
        plan: what is drawn.
        world: the processes; each takes every n-th block.
        batch_size: images whose codes are drawn at a time, as from `fitting_batch`.
        pixels: precision of the decoder, as from `pixel_precision`.
        blocks: of the job; None cuts it by the batch size.
        wanted: the numbers of the blocks that are to be drawn; None = all.

    Yields:
        The blocks of this process, in order.

    Raises:
        AlitokError: a class or a setting that the generator does not have, or a batch of none.
    """
    if batch_size < 1:
        raise AlitokError(f"The batch size must be at least 1, not {batch_size}.")
    blocks = blocks or blocks_of(plan.count, batch_size)
    share = sorted(range(len(blocks)) if wanted is None else wanted)[world.rank :: world.size]
    engine = _InBatches(pipeline.generator, pipeline.precision, batch_size)
    decoder = _InGroups(pipeline.tokenizer, pixels)
    requests = (request for number in share for request in plan.requests(blocks[number]))
    # Only the last block of a job may be smaller, and it is the last of a share too.
    drawn = synthesize(engine, decoder, requests, batch_size=blocks.size)
    for number, images in zip(share, drawn, strict=True):
        yield ImageBlock(number, blocks[number], plan.labels(blocks[number]), images)


class _InBatches(Engine):
    """An engine that draws what it is asked for in equal batches."""

    def __init__(self, generator: Generator, precision: EnginePrecision, batch_size: int) -> None:
        super().__init__(generator, precision)
        self._batch_size = batch_size

    def sample(self, requests: Sequence[SampleRequest]) -> torch.Tensor:
        batches = -(-len(requests) // self._batch_size)
        size = -(-len(requests) // batches)
        # Another size would take new buffers, and new graphs on a GPU: the last batch is filled up instead.
        filled = [*requests, *[requests[-1]] * (batches * size - len(requests))]
        parts = [Engine.sample(self, filled[first : first + size]) for first in range(0, len(filled), size)]
        return torch.cat(parts)[: len(requests)]


class _InGroups(PixelDecoder):
    """A decoder that draws pixels in groups of one size, so that the batch does not change how they are rounded."""

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.cat([PixelDecoder.__call__(self, group) for group in codes.split(_GROUP)])


def pixel_precision(pipeline: Pipeline, plan: SamplingPlan) -> Precision:
    """The decoder's precision for a job: fp32 where the codes are drawn in it, else the better one by a trial.

    The trial depends on the machine and on time, so one process does it for all.
    """
    if pipeline.precision == "fp32":
        return "fp32"
    engine, decoder = Engine(pipeline.generator, pipeline.precision), PixelDecoder(pipeline.tokenizer)
    decoder(engine.sample(list(plan.requests(range(min(_TRIAL, plan.count))))))
    return decoder.precision


def fitting_batch(
    pipeline: Pipeline, plan: SamplingPlan, world: World, asked: int | None = None, *, reserve: int = 0
) -> int:
    """How many images are drawn at a time; all processes call this and get the same.

    Args:
        pipeline: the pair, on the device of this process.
        plan: what is drawn.
        world: the processes; those of one machine share its memory.
        asked: None = 256 on a GPU, 64 elsewhere, or fewer where they do not fit.
        reserve: bytes that something else will take beside the drawing.

    Raises:
        AlitokError: fewer than 1 are asked for, or more than there is memory for.
    """
    if asked is not None and asked < 1:
        raise AlitokError(f"The batch size must be at least 1, not {asked}.")
    engine, guided = pipeline.engine, plan.sampling.guided
    device = engine.device
    wanted = asked or _BATCH.get(device.type, _BATCH_ELSEWHERE)
    free = free_memory(device)
    if free is None:
        return wanted
    if device.type == "cpu":
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    free = room(pipeline.generator, max(0, free - reserve)) - _GROUP * decoder_bytes(pipeline.tokenizer)
    largest = min(world.gather(engine.largest_batch(free, guided=guided)))
    if asked is not None and asked > largest:
        need = engine.batch_bytes(asked, guided=guided) / 1e9
        raise AlitokError(
            f"A batch of {asked:,} images takes {need:,.1f} GB, more than is free on {device}; "
            f"draw at most {largest:,} at a time."
        )
    return min(wanted, largest)
