"""The trainings of a run, each a resumable step that reads what it needs from the run's directory.

Enters: a recipe, the pictures, the processes, and the directory of the run. Leaves, in it:

    features/             where a phase has `losses.local`: the feature network learnt from the pictures
    stage1/ stage2/ generator/
                          one run each: metrics.jsonl, pictures/, curves/, checkpoints/, tensorboard/
    stage1/tokenizer/     the tokenizer after stage 1
    codes/train/ codes/heldout/   the pictures as codes
    model/                the finished pair, for `alitok.Pipeline.from_pretrained`

All processes call the same steps; the first one writes the files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from alitok.core import images as pixels
from alitok.core.checkpoint import Tensors
from alitok.core.config import to_dict
from alitok.core.device import seed_step
from alitok.core.distributed import World
from alitok.core.runlog import progress_bar
from alitok.data.codes import CodeStore, write_codes
from alitok.data.loader import Batches, CodeBatches
from alitok.data.source import Splits, crops_per_picture
from alitok.generator import Generator
from alitok.jobs.pipeline import Pipeline
from alitok.jobs.synthesize import synthesize
from alitok.jobs.tokenize import encode_source
from alitok.losses.local_features import LocalFeatures
from alitok.losses.perceptual import FeatureNetwork, NetworkName, PerceptualWeights, load_network
from alitok.presets import Recipe
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage
from alitok.train.features import FeaturesTask, finished_features, outputs
from alitok.train.generator import GeneratorTask
from alitok.train.loop import Trained, train
from alitok.train.task import Batch, LoopConfig, Task
from alitok.train.tokenizer import TokenizerTask, TokenizerTraining
from alitok.workflow.workspace import Workspace

_LOOK = 256  # held-out pictures looked at during training
_READ_BATCH = 256  # pictures drawn at a time
_PREVIEW_CLASSES, _PREVIEW_EACH = 10, 8

PRODUCTS = {
    "check": (),
    "features": ("features/network",),
    "stage1": ("stage1/tokenizer",),
    "stage2": ("model/tokenizer",),
    "encode": ("codes/train", "codes/heldout"),
    "generator": ("model/generator",),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What the steps of one run share."""

    recipe: Recipe
    splits: Splits
    world: World
    workspace: Workspace
    seed: int

    @property
    def root(self) -> Path:
        """The directory of the run."""
        return self.workspace.root

    @property
    def needs_features(self) -> bool:
        """Whether some phase compares pictures in features learnt from them."""
        return any("local" in training.networks() for training in (self.recipe.stage1, self.recipe.stage2))

    def step(self, name: str) -> None:
        """Do a step by name, unless it is done or not needed.

        Raises:
            AlitokError: what the step reads is not there.
        """
        loops = {
            "features": ("Features learnt from the pictures", self.recipe.features.phases),
            "stage1": ("Stage 1: causal decoder", self.recipe.stage1.phases),
            "stage2": ("Stage 2: bidirectional decoder", self.recipe.stage2.phases),
            "generator": ("Generator", self.recipe.generator.phases),
        }
        if name == "features" and not self.needs_features:
            return
        if name in loops:
            title, phases = loops[name]
            title = f"{title}, {sum(phase.steps for phase in phases)} steps"
        else:
            title = {"check": "Checking the pictures", "encode": "Pictures to codes"}[name]
        work: Callable[[], dict[str, Any]] = getattr(self, name)
        self.workspace.step(name, title, work, PRODUCTS[name])

    def check(self) -> dict[str, Any]:
        """Decode every picture once, so that a broken one stops the run now and not hours later."""
        part = self.world.rank, self.world.size
        for source in (self.splits.train, self.splits.heldout):
            with progress_bar(self.workspace.console, source.name, len(source)) as bar:
                source.verify(bar.advance, part)
        self.world.barrier()
        return {"train": len(self.splits.train), "heldout": len(self.splits.heldout)}

    def features(self) -> dict[str, Any]:
        """Train the feature network on classes and quarter turns."""
        seed_step(self.seed, "feature weights", 0)
        training = self.recipe.features
        network = LocalFeatures(training.network, outputs(len(self.splits.train.classes)))
        rows = self._spread()
        heldout = self._look(), self.splits.heldout.labels[rows]
        task = FeaturesTask(network, training, self._pictures(training.loop), heldout)
        trained = self._train(task, training.loop)
        self.world.together(
            lambda: finished_features(trained.weights, network).save(self.root / "features" / "network")
        )
        return report(trained, network)

    def stage1(self) -> dict[str, Any]:
        """Train encoder, codebook and causal decoder."""
        seed_step(self.seed, "tokenizer weights", 0)
        tokenizer = Tokenizer(dataclasses.replace(self.recipe.tokenizer, stage2=None))
        return self._tokenizer_stage(tokenizer, "stage1", self.recipe.stage1, self.root / "stage1" / "tokenizer")

    def stage2(self) -> dict[str, Any]:
        """Train the bidirectional decoder on frozen codes."""
        seed_step(self.seed, "stage-2 weights", 0)
        tokenizer = Tokenizer(self.recipe.tokenizer)
        tokenizer.load_codes(self.root / "stage1" / "tokenizer")
        return self._tokenizer_stage(tokenizer, "stage2", self.recipe.stage2, self.root / "model" / "tokenizer")

    def _tokenizer_stage(
        self, tokenizer: Tokenizer, stage: Stage, training: TokenizerTraining, out: Path
    ) -> dict[str, Any]:
        task = TokenizerTask(
            tokenizer,
            stage,
            training,
            self._pictures(training.loop),
            self._look(),
            networks=self._networks(training),
            probed=self._probed(training),
            seed=self.seed,
        )
        trained = self._train(task, training.loop)
        self.world.together(lambda: _loaded(Tokenizer(tokenizer.config), trained.weights).save_pretrained(out))
        return report(trained, tokenizer.decoder(stage) if stage == "stage2" else tokenizer)

    def _networks(self, training: TokenizerTraining) -> dict[NetworkName, FeatureNetwork]:
        networks: dict[NetworkName, FeatureNetwork] = {}
        for name in training.networks():
            if name == "local":
                networks[name] = LocalFeatures.load(self.root / "features" / "network")
            else:
                self.world.together(partial(_fetch, name, training.perceptual))  # one process downloads
                networks[name] = load_network(name, training.perceptual)
        return networks

    def _probed(self, training: TokenizerTraining) -> np.ndarray | None:
        if not training.predictability.every:
            return None
        source, count = self.splits.train, training.predictability.pictures
        rows = range(0, len(source), math.ceil(len(source) / count))
        return np.stack([source.read(row, None) for row in rows])

    def encode(self) -> dict[str, Any]:
        """Write the codes of all pictures: every view for training, the fixed one of held-out pictures."""
        self.world.together(self._encode)
        return {"pictures": len(self.splits.train) + len(self.splits.heldout)}

    def _encode(self) -> None:
        tokenizer = self.tokenizer()
        for name, source in (("train", self.splits.train), ("heldout", self.splits.heldout)):
            recipe = self.recipe.crops if name == "train" else "centre"
            write_codes(
                self.root / "codes" / name,
                encode_source(tokenizer, source, recipe, self.world.device),
                codebook_size=tokenizer.config.codebook_size,
                classes=source.classes,
                tokenizer=tokenizer.codes_fingerprint(),
                crops=crops_per_picture(source, recipe),
            )

    def generator(self) -> dict[str, Any]:
        """Train the generator on stored codes; its samples along the way are drawn by the tokenizer of stage 2."""
        tokenizer = self.tokenizer()
        store, heldout = (self.codes(name, tokenizer) for name in ("train", "heldout"))
        self.world.together(store.verify)
        seed_step(self.seed, "generator weights", 0)
        size, classes = self.recipe.generator_size, self.splits.train.classes
        generator = Generator(size.config(self.recipe.tokenizer, len(classes)), classes)
        training = self.recipe.generator
        rows = np.arange(len(heldout))[:: math.ceil(len(heldout) / _LOOK)]
        look = torch.from_numpy(heldout.codes(rows).astype(np.int64)), torch.from_numpy(heldout.labels[rows])
        part = self.world.rank, self.world.size

        def batches(start: int) -> Iterator[Batch]:
            return iter(CodeBatches(store, training.loop.batch_size, self.seed, start, part=part))

        def preview(model: Generator) -> np.ndarray:
            shown = np.repeat(np.arange(len(classes))[:_PREVIEW_CLASSES], _PREVIEW_EACH)
            return pixels.grid(self.draw(model, tokenizer, shown), columns=_PREVIEW_EACH)

        task = GeneratorTask(generator, training, batches, look, preview)
        trained = self._train(task, training.loop)

        def save() -> None:
            finished = _loaded(Generator(generator.config, classes), trained.weights)
            Pipeline(tokenizer.cpu(), finished, self.recipe.sampling).save_pretrained(self.root / "model")

        self.world.together(save)
        return report(trained, generator)

    def codes(self, name: str, tokenizer: Tokenizer) -> CodeStore:
        """The stored codes of `train` or `heldout`, refused when another tokenizer made them."""
        return CodeStore(self.root / "codes" / name, tokenizer.codes_fingerprint())

    def tokenizer(self) -> Tokenizer:
        """The finished tokenizer, on the device."""
        return Tokenizer.from_pretrained(self.root / "model" / "tokenizer").to(self.world.device)

    def draw(self, generator: Generator, tokenizer: Tokenizer, labels: np.ndarray) -> np.ndarray:
        """Samples (N, 3, h, h) uint8 of the classes `labels` (N,)."""
        drawn = synthesize(
            generator,
            tokenizer,
            labels.tolist(),
            self.recipe.sampling,
            seed=self.seed,
            batch_size=_READ_BATCH,
            device=self.world.device,
        )
        return np.concatenate(list(drawn))

    def _train(self, task: Task, loop: LoopConfig) -> Trained:
        return train(
            task,
            loop,
            self.root / task.name,
            world=self.world,
            seed=self.seed,
            console=self.workspace.console,
            engine=self.recipe.engine,
        )

    def _spread(self) -> range:
        source = self.splits.heldout
        return range(0, len(source), math.ceil(len(source) / _LOOK))

    def _look(self) -> np.ndarray:
        """Evenly spread held-out pictures (N, 3, h, h)."""
        return np.stack([self.splits.heldout.read(row, None) for row in self._spread()])

    def _pictures(self, loop: LoopConfig) -> Callable[[int], Iterator[Batch]]:
        part, workers = (self.world.rank, self.world.size), self.recipe.engine.workers
        return lambda start: iter(Batches(self.splits.train, loop.batch_size, self.seed, start, workers, part=part))


Model = TypeVar("Model", bound=nn.Module)


def _loaded(model: Model, weights: Tensors) -> Model:
    """A new model with finished weights: the trained one may be spread over processes."""
    model.load_state_dict(weights)
    return model.eval()


def _fetch(name: Literal["convnext", "lpips"], weights: PerceptualWeights) -> None:
    load_network(name, weights)


def report(trained: Trained, module: nn.Module) -> dict[str, Any]:
    """What a finished training is remembered by."""
    return {
        "earlier_seconds": trained.earlier_seconds,
        "step_seconds": trained.step_seconds,
        "steps": trained.steps,
        "batch_size": trained.batch_size,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


def settings(run: Recipe, splits: Splits, seed: int) -> dict[str, Any]:
    """All that decides the results of a run, for `run.toml`."""
    recipe = to_dict(run)
    del recipe["engine"]
    return {"data": splits.name, "contents": splits.contents, "seed": seed, "recipe": recipe}
