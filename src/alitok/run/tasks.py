"""The trainings of a run as tasks of the loop, made from its recipe, its images and its directory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.device import seed_step
from alitok.core.distributed import World
from alitok.data.codes import CodeStore
from alitok.data.loader import Batches, CodeBatches
from alitok.data.sources.decoded import fixed_views
from alitok.data.split import Splits
from alitok.generator import Generator
from alitok.losses.perceptual import FeatureNetwork, LocalFeatures, NetworkName, PerceptualWeights, load_network
from alitok.recipes.presets import Recipe
from alitok.sampling import SampleRequest
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine
from alitok.sampling.synthesize import synthesize
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage
from alitok.train.features import FeaturesTask, outputs
from alitok.train.generator import GeneratorTask
from alitok.train.task import Batch, LoopConfig, Task
from alitok.train.tokenizer import TokenizerTask, TokenizerTraining

_VAL_IMAGES = 256  # evaluated during training
_SAMPLE_BATCH = 256  # images sampled at a time
_PREVIEW_CLASSES, _PREVIEW_EACH = 10, 8


class Training(NamedTuple):
    """A task, its loop, and the module that is trained."""

    task: Task
    loop: LoopConfig
    model: LocalFeatures | Tokenizer | Generator


@dataclasses.dataclass(frozen=True)
class Trainings:
    """What all trainings of a run share."""

    recipe: Recipe
    splits: Splits
    world: World
    root: Path
    seed: int

    def features(self) -> Training:
        """The feature network, trained to classify images and quarter turns."""
        seed_step(self.seed, "feature weights", 0)
        training = self.recipe.features
        network = self._new_features()
        val = self._val_images(), self.splits.val.labels[spread(len(self.splits.val), _VAL_IMAGES)]
        return Training(FeaturesTask(network, training, self._images(training.loop), val), training.loop, network)

    def _new_features(self) -> LocalFeatures:
        training = self.recipe.features
        return LocalFeatures(training.network, outputs(len(self.splits.train.classes), training.turns))

    def stage(self, stage: Stage, *, rehearsal: bool = False) -> Training:
        """A tokenizer's stage; in a `rehearsal` untrained models take the place of what earlier steps make."""
        if stage == "stage1":
            seed_step(self.seed, "tokenizer weights", 0)
            training = self.recipe.stage1
            tokenizer = Tokenizer(dataclasses.replace(self.recipe.tokenizer, stage2=None))
        else:
            seed_step(self.seed, "stage-2 weights", 0)
            training = self.recipe.stage2
            tokenizer = Tokenizer(self.recipe.tokenizer)
            if not rehearsal:
                tokenizer.load_stage1(self.root / "stage1" / "tokenizer")
        count, source = training.predictability.images, self.splits.train
        probed = fixed_views(source, spread(len(source), count)) if training.predictability.every else None
        task = TokenizerTask(
            tokenizer,
            stage,
            training,
            self._images(training.loop),
            self._val_images(),
            networks=self._networks(training, rehearsal),
            predictability_images=probed,
            seed=self.seed,
        )
        return Training(task, training.loop, tokenizer)

    def _networks(self, training: TokenizerTraining, rehearsal: bool) -> dict[NetworkName, FeatureNetwork]:
        networks: dict[NetworkName, FeatureNetwork] = {}
        for name in training.networks():
            if name == "local":
                path = self.root / "features" / "network"
                networks[name] = self._new_features().freeze() if rehearsal else LocalFeatures.load(path)
            else:
                self.world.on_rank0(partial(_fetch, name, training.perceptual))  # one process downloads
                networks[name] = load_network(name, training.perceptual)
        return networks

    def generator(self, tokenizer: Tokenizer | None = None) -> Training:
        """The generator on stored codes; `tokenizer` decodes the preview samples, None skips them."""
        store, val = self.codes("train"), self.codes("val")
        for codes in (store, val):
            self.world.on_rank0(codes.verify)
        generator = self.new_generator()
        training = self.recipe.generator
        rows = np.array(spread(len(val), _VAL_IMAGES))
        val_batch = torch.from_numpy(val.codes(rows).astype(np.int64)), torch.from_numpy(val.labels[rows])
        part = self.world.rank, self.world.size

        def batches(start: int) -> Iterator[Batch]:
            return iter(CodeBatches(store, training.loop.batch_size, self.seed, start, part=part))

        preview = None if tokenizer is None else partial(self._preview, tokenizer)
        return Training(GeneratorTask(generator, training, batches, val_batch, preview), training.loop, generator)

    def new_generator(self) -> Generator:
        """The generator before training."""
        seed_step(self.seed, "generator weights", 0)
        size, classes = self.recipe.generator_size, self.splits.train.classes
        return Generator(size.config(self.recipe.tokenizer, len(classes)), classes)

    def _preview(self, tokenizer: Tokenizer, model: Generator) -> np.ndarray:
        shown = np.repeat(np.arange(len(self.splits.train.classes))[:_PREVIEW_CLASSES], _PREVIEW_EACH)
        return pixels.grid(self.sample(model, tokenizer, shown), columns=_PREVIEW_EACH)

    def codes(self, name: Literal["train", "val"]) -> CodeStore:
        """The stored codes; an AlitokError if another tokenizer encoded them."""
        fingerprint = Tokenizer.from_pretrained(self.tokenizer_path).codes_fingerprint()
        return CodeStore(self.root / "codes" / name, fingerprint)

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer of the latest finished stage is."""
        first, last = self.root / "stage1" / "tokenizer", self.root / "model" / "tokenizer"
        return last if last.exists() else first

    def sample(self, generator: Generator, tokenizer: Tokenizer, labels: np.ndarray) -> np.ndarray:
        """Samples (N, 3, h, h) uint8 of the classes `labels` (N,)."""
        requests = (
            SampleRequest(label, self.seed, index, self.recipe.sampling) for index, label in enumerate(labels.tolist())
        )
        samples = synthesize(Engine(generator), PixelDecoder(tokenizer), requests, batch_size=_SAMPLE_BATCH)
        return np.concatenate(list(samples))

    def _val_images(self) -> np.ndarray:
        """Evenly spaced validation images (N, 3, h, h)."""
        return fixed_views(self.splits.val, spread(len(self.splits.val), _VAL_IMAGES))

    def _images(self, loop: LoopConfig) -> Callable[[int], Iterator[Batch]]:
        part, workers = (self.world.rank, self.world.size), self.recipe.engine.workers
        return lambda start: iter(Batches(self.splits.train, loop.batch_size, self.seed, start, workers, part=part))


def spread(length: int, most: int) -> range:
    """At most `most` numbers below `length`, evenly spaced."""
    return range(0, length, math.ceil(length / most))


def _fetch(name: Literal["convnext", "lpips"], weights: PerceptualWeights) -> None:
    load_network(name, weights)
