"""Sampling jobs: many images of one model, sharded across processes; evaluation reads them without files in between.

A job is cut into blocks, each always computed from the same batches (of codes, from its first image; of pixels, in
groups of 16), so neither the number of processes nor earlier work changes an image. Another batch size, or other CPU
kernels, changes the rounding of logits: with `fp32` this hardly ever changes a code, with `bf16` and `int8` it does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.checkpoint import fingerprint
from alitok.core.config import to_dict
from alitok.core.console import counted
from alitok.core.device import DeviceName, Precision, free_memory
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.generator import Generator
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine
from alitok.sampling.memory import codes_bytes, decoder_bytes, room
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.settings import EnginePrecision, SampleRequest, SamplingConfig, SamplingOverrides
from alitok.sampling.synthesize import synthesize

_GROUP = 16  # images whose pixels are computed together; the shape decides how a sum is rounded
_GPU_BATCH, _CPU_BATCH = 256, 64
_TRIAL = 2
_DEFAULT_IMAGES = 64


@dataclass(frozen=True)
class SamplingJob:
    """What to sample: image i has class `classes[i % C]`, so every prefix of a job is balanced to within one image."""

    classes: tuple[int, ...]
    count: int
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        """Reject empty jobs."""
        if self.count < 1 or not self.classes:
            raise AlitokError(f"A job needs images and classes, not {self.count} and {len(self.classes)}.")

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        *,
        classes: Sequence[str] = (),
        num: int | None = None,
        per_class: int | None = None,
        seed: int = 0,
        sampling: SamplingOverrides,
    ) -> SamplingJob:
        """The job that a user's options mean for a model; no classes means all of them.

        Raises AlitokError if a class is unknown or named twice, numbers do not agree, or a setting is out of its range.
        """
        numbers = [pipeline.class_number(name) for name in classes] or list(range(pipeline.generator.config.classes))
        for place, name in enumerate(classes):
            if numbers[place] in numbers[:place]:
                raise AlitokError(f"--classes names class {numbers[place]} twice ('{name}'); name each once.")
        for option, value in (("--num", num), ("--per-class", per_class)):
            if value is not None and value < 1:
                raise AlitokError(f"{option} must be at least 1, not {value}.")
        count = num or min(len(numbers), _DEFAULT_IMAGES)
        if per_class is not None:
            count = per_class * len(numbers)
            if num not in (None, count):
                raise AlitokError(
                    f"Conflicting settings: --num {num}, but --per-class {per_class} of "
                    f"{counted(len(numbers), 'class', 'classes')} makes {count}; give one of them."
                )
        return cls(tuple(numbers), count, seed, sampling.apply_to(pipeline.sampling))

    def labels(self, images: range) -> np.ndarray:
        """The classes (B,) int64 of images."""
        return np.array(self.classes, np.int64)[np.arange(images.start, images.stop) % len(self.classes)]

    def requests(self, images: range) -> Iterator[SampleRequest]:
        """One request per image."""
        for index in images:
            yield SampleRequest(self.classes[index % len(self.classes)], self.seed, index, self.sampling)


def load_pipeline(model: str, world: World, device: DeviceName, precision: EnginePrecision) -> Pipeline:
    """A saved pipeline on each process's device; rank 0 downloads it if it is on the hub."""
    world.on_rank0(lambda: locate(model))
    return Pipeline.from_pretrained(model, device=device, precision=precision)


def model_hash(pipeline: Pipeline) -> str:
    """A hash of all that decides images: generator, codebook, and the decoder in use."""
    tokenizer, generator = pipeline.tokenizer, pipeline.generator
    parts = {"generator": generator, "quantizer": tokenizer.quantizer, "decoder": tokenizer.decoder()}
    tensors = {f"{part}.{name}": value for part, model in parts.items() for name, value in model.state_dict().items()}
    configs = {"generator": to_dict(generator.config), "tokenizer": to_dict(tokenizer.config)}
    return fingerprint(tensors, {**configs, "class_names": list(generator.class_names)})


def blocks_of(count: int, batch_size: int) -> Blocks:
    """A job's images in blocks of about one batch, in whole groups of pixels."""
    return Blocks(count, max(batch_size // _GROUP, 1) * _GROUP)


def sample_blocks(
    pipeline: Pipeline,
    job: SamplingJob,
    world: World,
    *,
    batch_size: int,
    pixels: Precision = "fp32",
    blocks: Blocks | None = None,
    wanted: Sequence[int] | None = None,
) -> Iterator[ImageBlock]:
    """This process's blocks of a job, in order; all processes call this with the same arguments.

    Raises AlitokError for a class or setting that the generator does not have, or an empty batch.

    Args:
        world: the processes; each takes every n-th block.
        batch_size, pixels: as from `fitting_batch` and `pixel_precision`.
        blocks: of the job; None = cut by the batch size.
        wanted: the numbers of the blocks to sample; None = all.
    """
    if batch_size < 1:
        raise AlitokError(f"The batch size must be at least 1, not {batch_size}.")
    blocks = blocks or blocks_of(job.count, batch_size)
    mine = sorted(range(len(blocks)) if wanted is None else wanted)[world.rank :: world.size]
    engine = _FixedBatchEngine(pipeline.generator, pipeline.precision, batch_size)
    decoder = _FixedGroupDecoder(pipeline.tokenizer, pixels)
    requests = (request for number in mine for request in job.requests(blocks[number]))
    # Only the last block of a job may be smaller, and whichever process has it does it last.
    batches = synthesize(engine, decoder, requests, batch_size=blocks.size)
    for number, images in zip(mine, batches, strict=True):
        yield ImageBlock(number, blocks[number], job.labels(blocks[number]), images)


class _FixedBatchEngine(Engine):
    def __init__(self, generator: Generator, precision: EnginePrecision, batch_size: int) -> None:
        super().__init__(generator, precision)
        self._batch_size = batch_size

    def sample(self, requests: Sequence[SampleRequest]) -> torch.Tensor:
        batches = -(-len(requests) // self._batch_size)
        size = -(-len(requests) // batches)
        # Another size would take new buffers, and new graphs on a GPU: the last batch is padded instead.
        filled = [*requests, *[requests[-1]] * (batches * size - len(requests))]
        parts = [Engine.sample(self, filled[first : first + size]) for first in range(0, len(filled), size)]
        return torch.cat(parts)[: len(requests)]


class _FixedGroupDecoder(PixelDecoder):
    """Groups of one size, so that the batch size does not change the rounding of pixels."""

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.cat([PixelDecoder.__call__(self, group) for group in codes.split(_GROUP)])


def pixel_precision(pipeline: Pipeline, job: SamplingJob) -> Precision:
    """The decoder's precision for a job: fp32 if the codes are sampled in it, else whichever wins a trial.

    The trial depends on the machine and on timings, so rank 0 decides for all.
    """
    if pipeline.precision == "fp32":
        return "fp32"
    engine, decoder = Engine(pipeline.generator, pipeline.precision), PixelDecoder(pipeline.tokenizer)
    decoder(engine.sample(list(job.requests(range(min(_TRIAL, job.count))))))
    return decoder.precision


def fitting_batch(
    pipeline: Pipeline, job: SamplingJob, world: World, requested: int | None = None, *, reserve: int = 0
) -> int:
    """How many images to sample at a time, the same for all processes, which all call this.

    Raises AlitokError if fewer than 1 are requested, or more than fit into memory.

    Args:
        world: the processes; those of one machine share its memory.
        requested: None = 256 on a GPU, 64 elsewhere, or fewer if those do not fit.
        reserve: bytes that something else needs beside the sampling.
    """
    if requested is not None and requested < 1:
        raise AlitokError(f"The batch size must be at least 1, not {requested}.")
    engine, guided = pipeline.engine, job.sampling.guided
    device = engine.device
    wanted = requested or (_GPU_BATCH if device.type == "cuda" else _CPU_BATCH)
    free = free_memory(device)
    if free is None:
        return wanted
    if device.type == "cpu":
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    free = room(pipeline.generator, max(0, free - reserve)) - _GROUP * decoder_bytes(pipeline.tokenizer)
    largest = min(world.gather(max(free // codes_bytes(engine, 1, guided=guided), 1)))
    if requested is not None and requested > largest:
        need = codes_bytes(engine, requested, guided=guided) / 1e9
        raise AlitokError(
            f"A batch of {requested:,} images takes {need:,.1f} GB, more than is free on {device}; "
            f"use a batch size of at most {largest:,}."
        )
    return min(wanted, largest)
