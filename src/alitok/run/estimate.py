"""The time that the steps of a run will take on this machine, from a few measured steps; nothing is written."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from alitok.core.errors import AlitokError
from alitok.data.sources.builtin import DigitSource
from alitok.data.sources.decoded import ImageSource
from alitok.data.split import Splits
from alitok.generator import Generator
from alitok.recipes.presets import Recipe
from alitok.run.run import needs_features
from alitok.run.steps import TRAININGS
from alitok.run.tasks import Training, Trainings
from alitok.sampling import SampleRequest
from alitok.sampling.engine import Engine
from alitok.tokenizer import Tokenizer
from alitok.train.checkpoint import Checkpoints
from alitok.train.generator import GeneratorTask
from alitok.train.schedule import Progress
from alitok.train.state import TrainingState
from alitok.train.task import Batch

_MEASURED_STEPS = 2  # after a warm-up
_FEW, _LONG = 4, 20.0  # examples of a microbatch, and seconds of a step above which so few are measured
_READS = 16
_NOISE = 64  # images
_ENCODED, _SAMPLED = 64, 256  # images at a time


def estimate(trainings: Trainings, done: Collection[str] = (), redone: Collection[str] = ()) -> dict[str, float]:
    """Seconds that each step not `done` will still take; checkpoints of steps that are `redone` do not count.

    Raises:
        AlitokError: a step cannot be taken at all, as when an image cannot be read.
    """
    recipe, splits, world = trainings.recipe, trainings.splits, trainings.world
    alone = replace(recipe, engine=replace(recipe.engine, workers=0))  # noise is in memory: no workers
    rehearsal = replace(trainings, splits=noise_splits(splits.train.classes, recipe), recipe=alone)
    read, views = _reading(splits.train, recipe)
    seconds = {}
    for name in TRAININGS:
        if name not in done and (name != "features" or needs_features(recipe)):
            seconds[name] = _training(rehearsal, name, read, recipe.engine.workers, name in redone)
    images = len(splits.train) + len(splits.val)
    if "check" not in done:
        seconds["check"] = read * images / world.size
    if "encode" not in done:
        encoded = len(splits.train) * views + len(splits.val)
        seconds["encode"] = (encoded * _encode_seconds(trainings) + images * read) / world.size
    if "sample" not in done:
        seconds["sample"] = _sample_seconds(trainings)
    return seconds


def noise_splits(classes: tuple[str, ...], recipe: Recipe) -> Splits:
    """Images in memory in place of real ones, some of which may be broken."""
    size = recipe.tokenizer.image_size
    images = np.random.default_rng(0).integers(0, 256, (_NOISE, size, size), dtype=np.uint8)
    source = DigitSource("noise", classes, np.arange(_NOISE) % len(classes), size, images)
    return Splits(source, source, "noise", "")


def _reading(source: ImageSource, recipe: Recipe) -> tuple[float, int]:
    """Mean seconds of reading one image, and the views that are stored of each."""
    seconds, views = [], 1
    for row in np.linspace(0, len(source) - 1, min(_READS, len(source))).astype(int).tolist():
        began = time.perf_counter()
        try:
            source.read(row, np.random.default_rng(0))
            seconds.append(time.perf_counter() - began)
            views = len(source.views(row, recipe.crops))
        except AlitokError:
            continue  # reported by the check that follows
    return float(np.mean(seconds)) if seconds else 0.0, views


def _training(trainings: Trainings, name: str, read: float, workers: int, redone: bool) -> float:
    if name == "features":
        training = trainings.features()
    elif name == "generator":
        training = generator_on_noise(trainings)
    else:
        training = trainings.stage("stage2" if name == "stage2" else "stage1", rehearsal=True)
    saved = Checkpoints(trainings.root / name / "checkpoints", training.loop.keep, trainings.world).steps()
    done = 0 if redone else max(saved, default=0)
    reading = 0.0 if name == "generator" else read * training.loop.batch_size / trainings.world.size
    seconds = 0.0
    for phase, computing in zip(training.task.phases, step_seconds(training, trainings), strict=True):
        left, done = max(0, phase.steps - done), max(0, done - phase.steps)
        seconds += left * (max(computing, reading / workers) if workers else computing + reading)
    return seconds


def step_seconds(training: Training, trainings: Trainings) -> list[float]:
    """Mean seconds of a whole optimizer step of each phase; the task's modules are changed by those that are taken.

    On a CPU the time of a long step is extrapolated from steps of few examples.
    """
    with tempfile.TemporaryDirectory() as directory:
        engine = trainings.recipe.engine
        state = TrainingState(training.task, training.loop, engine, Path(directory), trainings.world)
        batches, phases = training.task.batches(0), training.task.phases
        per_rank, few = training.loop.batch_size // trainings.world.size, _FEW * engine.grad_accum_steps

        def step(phase: int, examples: int) -> float:
            state.progress = Progress(phases, phase=phase)  # always its first one, in a phase of any length
            images_or_codes, labels = next(batches)
            began = time.perf_counter()
            state.advance((images_or_codes[:examples], labels[:examples]), lambda: False)
            return max(trainings.world.gather(time.perf_counter() - began))

        def seconds(phase: int) -> float:
            if trainings.world.device.type == "cpu" and not engine.compile and per_rank >= 4 * few:
                _, small, large = (step(phase, count) for count in (few, few, 2 * few))
                whole = small + (large - small) * (per_rank / few - 1)
                if whole > _LONG:
                    return whole
            return statistics.fmean([step(phase, per_rank) for _ in range(1 + _MEASURED_STEPS)][1:])

        return [seconds(number) for number in range(len(phases))]


def generator_on_noise(trainings: Trainings) -> Training:
    """The generator on random codes, which take the same time as real ones."""
    generator, training = trainings.new_generator(), trainings.recipe.generator
    config, batch_size = generator.config, training.loop.batch_size // trainings.world.size
    codes = torch.randint(config.codebook_size, (batch_size, config.sequence_length))
    batch = codes, torch.zeros(batch_size, dtype=torch.int64)

    def batches(start: int) -> Iterator[Batch]:
        while True:
            yield batch

    return Training(GeneratorTask(generator, training, batches, batch), training.loop, generator)


@torch.inference_mode()
def _encode_seconds(trainings: Trainings) -> float:
    """Of one view, without reading it."""
    tokenizer = Tokenizer(trainings.recipe.tokenizer).to(trainings.world.device).eval()
    side = tokenizer.config.image_size
    images = torch.zeros(_ENCODED, 3, side, side, device=trainings.world.device)
    tokenizer.encode(images).cpu()  # warm-up
    began = time.perf_counter()
    tokenizer.encode(images).cpu()
    return (time.perf_counter() - began) / _ENCODED


def _sample_seconds(trainings: Trainings) -> float:
    """Of all samples: one position at half the length, times the positions and the batches."""
    generator: Generator = trainings.new_generator().to(trainings.world.device).eval()
    count = trainings.recipe.samples_per_class * len(trainings.splits.train.classes)
    length = generator.config.sequence_length
    requests = [
        SampleRequest(0, index=index, sampling=trainings.recipe.sampling) for index in range(min(count, _SAMPLED))
    ]
    return Engine(generator).step_seconds(requests, length // 2) * length * -(-count // _SAMPLED)
