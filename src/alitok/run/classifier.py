"""The classifier that judges images where Inception's weights cannot be had: trained once, and kept in the cache.

Enters: the images of a data set. Leaves: a `Judge`, the same one for every evaluation of the same data, and in the
cache folder:

    judges/KEY/judge/       the finished one
    judges/KEY/training/    its metrics.jsonl, and until it is finished the checkpoints that another start goes on from
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from alitok import __version__
from alitok.core.config import to_dict
from alitok.core.console import progress_bar, reporter
from alitok.core.device import seed_step
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import remove
from alitok.data.loader import Batches
from alitok.data.sources.cache import open_cache
from alitok.data.sources.decoded import ImageSource, fixed_views
from alitok.data.split import Splits
from alitok.losses.local_features import LocalFeatures, LocalFeaturesConfig
from alitok.run.classifier_features import Judge, seen
from alitok.run.tasks import spread
from alitok.train.features import FeaturesTask, FeaturesTraining, finished_features, outputs
from alitok.train.loop import train
from alitok.train.schedule import Phase
from alitok.train.task import Batch, EngineConfig, LoopConfig

_LOOK = 256  # validation images looked at when the training ends
_MOST_VAL = 10_000  # validation images that the accuracy is measured on
_BLOCK = 256  # of them at a time
_STEPS, _MOST_STEPS, _GROWS_FROM = 600, 20_000, 2000


def judge_of(
    splits: Splits,
    world: World,
    console: Console,
    *,
    seed: int = 0,
    training: FeaturesTraining | None = None,
) -> Judge:
    """The judge of a data set, on the device: the one trained before, else trained now on its training images.

    Args:
        splits: the images; those that cannot be read are left out of them.
        world: the processes, which all call this and train together.
        console: where progress is told.
        seed: of its weights and of the order of the images.
        training: of classes alone; `judge_training` unless given.

    Raises:
        AlitokError: the images are all of one class, the cache cannot be written, or a kept judge is damaged.
        Interrupted: asked to stop; the same call goes on from there.
    """
    if len(np.unique(splits.train.labels)) < 2:
        raise AlitokError(
            f"A classifier needs images of at least two classes, and {splits.name} has one; use Inception's features "
            "(--features inception)."
        )
    training = training or judge_training(splits.train)
    assert training.turns == 1, training.turns
    wanted = training
    place = world.on_rank0(lambda: _place(splits, seed, wanted))
    share = -(-training.loop.batch_size // world.size)  # a judge kept before is taken however many made it
    training = replace(training, loop=replace(training.loop, batch_size=share * world.size))
    judge = world.on_rank0(lambda: _kept(place))
    if judge is None:
        with ExitStack() as stack:
            world.on_rank0(lambda: stack.enter_context(open_cache().lock(place)))
            judge = world.on_rank0(lambda: _kept(place))  # of another run that was at it until now
            if judge is None:
                judge = _make(splits, world, console, place, seed=seed, training=training)
    return judge.to(world.device)


def judge_training(source: ImageSource) -> FeaturesTraining:
    """A training of about a minute on two cores for the small recipes' images, that grows with size and number.

    The last stage has 128 features, few enough for the statistics of some hundred images.
    """
    network = LocalFeaturesConfig(width=32, stages=3) if source.size <= 16 else LocalFeaturesConfig(width=16, stages=4)
    steps = min(_MOST_STEPS, round(_STEPS * max(1.0, len(source) / _GROWS_FROM) ** 0.5))
    return FeaturesTraining(
        network=network,
        phases=(Phase(steps=steps, learning_rate=2e-3, final_learning_rate=1e-5, warmup_steps=50),),
        loop=LoopConfig(batch_size=64, evaluate_every=steps, checkpoint_every=200, keep=1),
        turns=1,
    )


def _place(splits: Splits, seed: int, training: FeaturesTraining) -> Path:
    """Where in the cache the judge of these images is kept, by all that decides it."""
    split = hashlib.sha256()
    for source in (splits.train, splits.val):  # which images are held out decides what it learns
        split.update(source.labels.tobytes())
    for index in range(len(splits.val)):
        split.update(f"{splits.val.key(index)}\0".encode("utf-8", "surrogateescape"))
    return open_cache().folder(
        "judges",
        __version__,
        splits.contents,
        split.hexdigest(),
        splits.train.size,
        splits.train.flip,
        json.dumps(splits.train.classes),
        seed,
        json.dumps(to_dict(training)),
    )


def _kept(place: Path) -> Judge | None:
    path = place / "judge"
    return Judge.load(path) if path.exists() else None


def _make(
    splits: Splits,
    world: World,
    console: Console,
    place: Path,
    *,
    seed: int,
    training: FeaturesTraining,
) -> Judge:
    """Train a judge, measure it on validation images and keep it; the same on every process."""
    say, source = reporter(console), splits.train
    if world.main:
        say(f"Training the classifier that judges {splits.name}, once; it is kept in {place}")
    seed_step(seed, "classifier weights", 0)
    network = LocalFeatures(training.network, outputs(len(source.classes), training.turns))
    part = world.rank, world.size

    def batches(start: int) -> Iterator[Batch]:
        stream = Batches(source, training.loop.batch_size, seed, start, part=part)
        return ((seen(images), labels) for images, labels in stream)

    rows = spread(len(splits.val), _LOOK)
    look = torch.from_numpy(fixed_views(splits.val, rows))
    val = seen(look).numpy(), splits.val.labels[rows]
    trained = train(
        FeaturesTask(network, training, batches, val, name="classifier"),
        training.loop,
        place / "training",
        world=world,
        seed=seed,
        console=console,
        engine=EngineConfig(precision="fp32"),
    )
    judge = world.on_rank0(lambda: Judge(finished_features(trained.weights, network), source.classes, source.size))
    judge.val_accuracy = _accuracy(judge.to(world.device), splits.val, world, console)
    world.on_rank0(lambda: judge.save(place / "judge"))
    world.on_rank0(lambda: remove(place / "training" / "checkpoints"))
    if world.main:
        say(f"It tells the class of {judge.val_accuracy:.1%} of the validation images")
    return judge


def _accuracy(judge: Judge, source: ImageSource, world: World, console: Console) -> float:
    """Share of images whose class the judge tells; each process reads its part."""
    rows = np.array(spread(len(source), _MOST_VAL))
    mine, right = rows[world.rank :: world.size], 0
    with progress_bar(console, "classifier on validation images", len(mine)) as bar:
        for start in range(0, len(mine), _BLOCK):
            block = mine[start : start + _BLOCK]
            images = torch.from_numpy(fixed_views(source, block))
            told = judge(images.to(world.device)).probabilities.argmax(1).cpu().numpy()
            right += int((told == source.labels[block]).sum())
            bar.advance(start + len(block))
    return int(world.sum(torch.tensor(right, device=world.device))) / len(rows)
