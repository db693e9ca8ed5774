"""A classifier of the images at hand as a feature extractor, where Inception's weights are missing or do not fit.

Trained once on the real images of a data set, and cached in `classifiers/KEY/` for every evaluation of the same data.
The Frechet distance in its features is not an FID: it is compared only with others in the same features.
Shapes: B images (B, 3, h, h) uint8, D features, C classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from alitok import __version__
from alitok.core import images as pixels
from alitok.core.checkpoint import fingerprint, load_head
from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.console import progress_bar, reporter
from alitok.core.device import seed_step
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, remove, write_json
from alitok.data.loader import Batches
from alitok.data.sources.cache import open_cache
from alitok.data.sources.decoded import ImageSource, fixed_views
from alitok.data.split import Splits
from alitok.losses.perceptual import LocalFeatures, LocalFeaturesConfig
from alitok.metrics.features import Features, full_precision
from alitok.run.tasks import spread
from alitok.train.features import FeaturesTask, FeaturesTraining, finished_features, outputs
from alitok.train.loop import train
from alitok.train.schedule import Phase
from alitok.train.task import Batch, EngineConfig, LoopConfig

_VAL_IMAGES = 256  # evaluated when the training ends
_MOST_VAL = 10_000  # validation images of the accuracy
_BLOCK = 256  # of them at a time
_STEPS, _MOST_STEPS, _GROWS_FROM = 600, 20_000, 2000
MAX_SIZE = 64  # px that the network sees at most
_KIND = "classifier"
_NETWORK = "network"


@config
class _Saved:
    """What `config.json` holds besides its kind."""

    classes: tuple[str, ...]
    size: int
    val_accuracy: float

    def __post_init__(self) -> None:
        require_at_least(self, 1, "size")
        require_at_least(self, 0, "val_accuracy")


class ClassifierFeatures(nn.Module):
    """Features and class probabilities of a frozen classifier; always in evaluation mode and without gradients.

    `network` was trained on images downsampled by `seen`; `size` is in px; `val_accuracy` is NaN until measured;
    `weights` hashes all that decides its outputs, also in its `name`; `distance` names the Frechet distance in them.
    """

    distance = "Frechet distance in classifier features"

    def __init__(
        self, network: LocalFeatures, classes: tuple[str, ...], size: int, val_accuracy: float = math.nan
    ) -> None:
        super().__init__()
        assert network.outputs == len(classes), (network.outputs, len(classes))
        self.network = network.freeze()
        self.classes, self.size, self.val_accuracy = classes, size, val_accuracy
        about = {"network": to_dict(network.config), "classes": list(classes), "size": size}
        self.weights = fingerprint(network.state_dict(), about)
        self.name = f"classifier-{self.weights}"

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Features:
        """Images (B, 3, size, size) uint8 -> means of the last stage's features; float32 even under autocast or TF32.

        Raises:
            AlitokError: the images have another size.
        """
        assert images.dtype == torch.uint8, images.dtype
        assert images.ndim == 4, images.shape
        assert images.shape[1] == 3, images.shape
        if images.shape[2:] != (self.size, self.size):
            raise AlitokError(
                f"The classifier was trained on images of {self.size} px, not "
                f"{images.shape[3]} x {images.shape[2]} px; give images of that size."
            )
        with full_precision(images.device):
            pool = self.network(pixels.to_float(seen(images)))[-1].mean((2, 3))
            return Features(pool, None, self.network.head(pool).softmax(1))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever mode the module around it is in."""
        return super().train(False)

    def save(self, directory: Path) -> None:
        """Write the directory, whole or not at all: `network/` and `config.json`."""
        saved = _Saved(classes=self.classes, size=self.size, val_accuracy=self.val_accuracy)
        with atomic_path(directory) as whole:
            whole.mkdir()
            self.network.save(whole / _NETWORK)
            write_json(whole / "config.json", {"kind": _KIND, **to_dict(saved)})

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote, on the CPU.

        Raises:
            AlitokError: a file is missing, damaged, or not a classifier's.
        """
        path = directory / "config.json"
        head = load_head(path, _KIND)
        if "heldout_accuracy" in head:  # its name before
            head["val_accuracy"] = head.pop("heldout_accuracy")
        saved = from_dict(_Saved, {key: value for key, value in head.items() if key != "kind"}, str(path))
        network = LocalFeatures.load(directory / _NETWORK)
        if network.outputs != len(saved.classes):
            raise AlitokError(
                f"{path} names {len(saved.classes)} classes and its network has {network.outputs}; delete {directory}."
            )
        return cls(network, saved.classes, saved.size, saved.val_accuracy)


def seen(images: torch.Tensor) -> torch.Tensor:
    """What the network sees of images (B, 3, h, h) uint8: those above 64 px are averaged down to that.

    The small network sees whole objects, not their texture, in bounded time, and is trained on the same.
    """
    if images.shape[-1] <= MAX_SIZE:
        return images
    return pixels.to_uint8(F.adaptive_avg_pool2d(pixels.to_float(images), MAX_SIZE))


def open_classifier(
    splits: Splits,
    world: World,
    console: Console,
    *,
    seed: int = 0,
    training: FeaturesTraining | None = None,
) -> ClassifierFeatures:
    """The classifier of a data set, on the device: the cached one, or trained now on the training images.

    Unreadable images are left out of `splits`; `seed` is of the weights and the order of the images; `training` is of
    classes alone, None = `classifier_training`.

    Raises:
        AlitokError: the images are all of one class, the cache cannot be written, or a cached classifier is damaged.
        Interrupted: stopped by a signal; the same call resumes.
    """
    if len(np.unique(splits.train.labels)) < 2:
        raise AlitokError(
            f"A classifier needs images of at least two classes, and {splits.name} has one; use Inception's features "
            "(--features inception)."
        )
    training = training or classifier_training(splits.train)
    assert training.turns == 1, training.turns
    place = world.on_rank0(partial(_place, splits, seed, training))
    per_rank = -(-training.loop.batch_size // world.size)  # a cached one is used however many ranks trained it
    training = replace(training, loop=replace(training.loop, batch_size=per_rank * world.size))
    classifier = world.on_rank0(lambda: _cached(place))
    if classifier is None:
        with ExitStack() as stack:
            world.on_rank0(lambda: stack.enter_context(open_cache().lock(place)))
            classifier = world.on_rank0(lambda: _cached(place))  # of another run, in the meantime
            if classifier is None:
                classifier = _make(splits, world, console, place, seed=seed, training=training)
    return classifier.to(world.device)


def classifier_training(source: ImageSource) -> FeaturesTraining:
    """A training of about a minute on two cores for the small recipes' images, that grows with size and number.

    The last stage has 128 features, few enough for the statistics of a few hundred images.
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
    """The cache folder of the classifier of these images, by everything that decides it."""
    split = hashlib.sha256()
    for source in (splits.train, splits.val):  # which images are in the validation set decides what it learns
        split.update(source.labels.tobytes())
    for index in range(len(splits.val)):
        split.update(f"{splits.val.key(index)}\0".encode("utf-8", "surrogateescape"))
    return open_cache().folder(
        "classifiers",
        __version__,
        splits.contents,
        split.hexdigest(),
        splits.train.size,
        splits.train.flip,
        json.dumps(splits.train.classes),
        seed,
        json.dumps(to_dict(training)),
    )


def _cached(place: Path) -> ClassifierFeatures | None:
    path = place / "classifier"
    return ClassifierFeatures.load(path) if path.exists() else None


def _make(
    splits: Splits,
    world: World,
    console: Console,
    place: Path,
    *,
    seed: int,
    training: FeaturesTraining,
) -> ClassifierFeatures:
    """Train a classifier, measure it on validation images and cache it; the same on every rank."""
    report, source = reporter(console), splits.train
    if world.main:
        report(f"Training a classifier of {splits.name} as feature extractor, once; cached in {place}")
    seed_step(seed, "classifier weights", 0)
    network = LocalFeatures(training.network, outputs(len(source.classes), training.turns))

    def batches(start: int) -> Iterator[Batch]:
        stream = Batches(source, training.loop.batch_size, seed, start, part=(world.rank, world.size))
        return ((seen(images), labels) for images, labels in stream)

    rows = spread(len(splits.val), _VAL_IMAGES)
    images = torch.from_numpy(fixed_views(splits.val, rows))
    val = seen(images).numpy(), splits.val.labels[rows]
    trained = train(
        FeaturesTask(network, training, batches, val, name="classifier"),
        training.loop,
        place / "training",
        world=world,
        seed=seed,
        console=console,
        engine=EngineConfig(precision="fp32"),
    )
    classifier = world.on_rank0(
        lambda: ClassifierFeatures(finished_features(trained.weights, network), source.classes, source.size)
    )
    classifier.val_accuracy = _accuracy(classifier.to(world.device), splits.val, world, console)
    world.on_rank0(lambda: classifier.save(place / "classifier"))
    world.on_rank0(lambda: remove(place / "training" / "checkpoints"))
    if world.main:
        report(f"Its accuracy on validation images is {classifier.val_accuracy:.1%}")
    return classifier


def _accuracy(classifier: ClassifierFeatures, source: ImageSource, world: World, console: Console) -> float:
    """Fraction of images classified correctly; each rank reads its part."""
    rows = np.array(spread(len(source), _MOST_VAL))
    mine, right = rows[world.rank :: world.size], 0
    with progress_bar(console, "classifier on validation images", len(mine)) as bar:
        for start in range(0, len(mine), _BLOCK):
            block = mine[start : start + _BLOCK]
            images = torch.from_numpy(fixed_views(source, block))
            predicted = classifier(images.to(world.device)).probabilities.argmax(1).cpu().numpy()
            right += int((predicted == source.labels[block]).sum())
            bar.advance(start + len(block))
    return int(world.sum(torch.tensor(right, device=world.device))) / len(rows)
