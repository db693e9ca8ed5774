"""A run's steps from images to the finished pipeline, each resumable, each reading its inputs from the directory.

A training writes metrics.jsonl, images/, curves/, checkpoints/ and tensorboard/ to `features/`, `stage1/`, `stage2/` or
`generator/`; `codes/` has the images as codes, `model/` the pipeline. All ranks call the same steps; rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from alitok.core.checkpoint import Tensors
from alitok.core.config import from_dict, read_toml, to_dict
from alitok.core.console import Bar, progress_bar
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import remove
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.generator import Generator
from alitok.losses.perceptual import LocalFeatures
from alitok.recipes.presets import Recipe
from alitok.run.encode import Origin, encode_store
from alitok.run.images import report_left_out, verify_images
from alitok.run.rundir import RUN_FILE, RunDir
from alitok.run.steps import STEPS, TRAININGS
from alitok.run.tasks import Training, Trainings
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage
from alitok.train.features import finished_features
from alitok.train.loop import Trained, train


class Run:
    """One run; `splits` are the images as found, without the broken ones after `check`."""

    def __init__(self, recipe: Recipe, splits: Splits, world: World, directory: RunDir, seed: int) -> None:
        self.recipe, self.splits, self.world, self.directory, self.seed = recipe, splits, world, directory, seed
        self.root = directory.root
        self._left_out: list[Broken] = []

    @property
    def trainings(self) -> Trainings:
        """The trainings, after `check` on the images that can be used."""
        return Trainings(self.recipe, self.splits, self.world, self.root, self.seed)

    def step(self, name: str) -> dict[str, Any] | None:
        """Do a step by name, unless it is done or not needed; returns what it reported, or None if it is not needed.

        Raises:
            AlitokError: what the step reads is not there.
        """
        if name == "features" and not needs_features(self.recipe):
            return None
        title = STEPS[name].title
        if name in TRAININGS:
            title = f"{title}, {sum(phase.steps for phase in getattr(self.recipe, name).phases)} steps"
        done = self.directory.step(name, title, getattr(self, name), STEPS[name].required)
        if name == "check":
            self._left_out = [Broken(*found) for found in done["broken"]]
            report_left_out(self._left_out, self.directory.console)
            self.splits = self.splits.without({key for key, _ in self._left_out})
        return done

    def check(self) -> dict[str, Any]:
        """Decode every image once, so that broken ones are found now and not hours later.

        Raises:
            AlitokError: too many are broken.
        """
        broken = verify_images(self.splits, "all", self.world, self.directory.console)
        return {"train": len(self.splits.train), "val": len(self.splits.val), "broken": broken}

    def features(self) -> dict[str, Any]:
        """Train the feature network to classify images and quarter turns."""
        training = self.trainings.features()
        network = training.model
        assert isinstance(network, LocalFeatures)
        trained = self._train(training)
        self._finish("features", lambda path: finished_features(trained.weights, network).save(path))
        return _report(trained, network)

    def stage1(self) -> dict[str, Any]:
        """Train encoder, codebook and causal decoder."""
        return self._stage("stage1")

    def stage2(self) -> dict[str, Any]:
        """Train the bidirectional decoder on frozen codes."""
        return self._stage("stage2")

    def _stage(self, stage: Stage) -> dict[str, Any]:
        training = self.trainings.stage(stage)
        tokenizer = training.model
        assert isinstance(tokenizer, Tokenizer)
        trained = self._train(training)
        self._finish(stage, lambda path: _loaded(Tokenizer(tokenizer.config), trained.weights).save_pretrained(path))
        return _report(trained, tokenizer.decoder(stage) if stage == "stage2" else tokenizer)

    def encode(self) -> dict[str, Any]:
        """Write the codes of all images: every crop for training, the fixed one of validation images."""
        place = self.root / "stage1" / "tokenizer"
        tokenizer = Tokenizer.from_pretrained(place).to(self.world.device)
        splits, left_out = self.splits, tuple(self._left_out)
        for name, source in (("train", splits.train), ("val", splits.val)):
            store = self.root / "codes" / name
            with progress_bar(self.directory.console, f"{source.name} to codes", len(source)) as bar:
                encoded = encode_store(
                    tokenizer,
                    source,
                    store,
                    recipe=self.recipe.crops if name == "train" else "centre",
                    origin=Origin(splits.name, splits.contents, name, str(place.resolve()), left_out),
                    world=self.world,
                    workers=self.recipe.engine.workers,
                    progress=partial(_advance, bar),
                )
            if not encoded.whole:
                raise AlitokError(
                    f"{store} lacks shards that other ranks wrote; if they share this disk, run the same command again."
                )
        return {"images": len(self.splits)}

    def generator(self) -> dict[str, Any]:
        """Train the generator on stored codes; preview samples use the latest finished decoder."""
        training = self.trainings.generator(self.load_tokenizer())
        generator = training.model
        assert isinstance(generator, Generator)
        trained = self._train(training)
        empty = Generator(generator.config, generator.class_names)
        self._finish("generator", lambda path: _loaded(empty, trained.weights).save_pretrained(path))
        return _report(trained, generator)

    def pipeline(self) -> dict[str, Any]:
        """Write the sampling settings beside both models, as `run.toml` has them now.

        Both may be trained at the same time, and a generator of another size begun after this process read it.
        """

        def write() -> None:
            place = self.root / RUN_FILE
            sampling = from_dict(Recipe, read_toml(place)["recipe"], str(place)).sampling
            Pipeline(self.load_tokenizer(), self._finished_generator(), sampling).save_head(self.root / "model")

        self.world.on_rank0(write)
        return {}

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the latest finished stage, on the device."""
        return Tokenizer.from_pretrained(self.trainings.tokenizer_path).to(self.world.device)

    def load_pipeline(self) -> Pipeline:
        """The finished pipeline, on the device, with the recipe's sampling settings."""
        return Pipeline(self.load_tokenizer(), self._finished_generator(), self.recipe.sampling)

    def _finished_generator(self) -> Generator:
        return Generator.from_pretrained(self.root / "model" / "generator").to(self.world.device)

    def _finish(self, name: str, write: Callable[[Path], None]) -> None:
        """Write the finished model of a step, on rank 0; remains of one without a config file are replaced."""
        path, known = self.root / STEPS[name].products[0], {*STEPS[name].parts, "README.md"}

        def replace() -> None:
            headless = path.is_dir() and not (path / "config.json").is_file()
            if headless and known.issuperset(file.name for file in path.iterdir()):
                remove(path)
            write(path)

        self.world.on_rank0(replace)

    def _train(self, training: Training) -> Trained:
        return train(
            training.task,
            training.loop,
            self.root / training.task.name,
            world=self.world,
            seed=self.seed,
            console=self.directory.console,
            engine=self.recipe.engine,
        )


def _advance(bar: Bar, done: int, total: int) -> None:
    bar.advance(done, {}, total)


def needs_features(recipe: Recipe) -> bool:
    """Whether some phase has a perceptual loss in features trained on the images."""
    return any("local" in training.networks() for training in (recipe.stage1, recipe.stage2))


Model = TypeVar("Model", bound=nn.Module)


def _loaded(model: Model, weights: Tensors) -> Model:
    """A new model with finished weights: the trained one may be sharded across ranks."""
    model.load_state_dict(weights)
    return model.eval()


def _report(trained: Trained, module: nn.Module) -> dict[str, Any]:
    return {
        "earlier_seconds": trained.earlier_seconds,
        "step_seconds": trained.step_seconds,
        "steps": trained.steps,
        "batch_size": trained.batch_size,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


def settings(recipe: Recipe, splits: Splits, seed: int) -> dict[str, Any]:
    """The settings of a run, for `run.toml`; everything but the recipe's `engine` decides its results."""
    return {"data": splits.name, "contents": splits.contents, "seed": seed, "recipe": to_dict(recipe)}
