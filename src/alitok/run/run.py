"""A run's steps from the images to the finished pair, each resumable, each reading what it needs from the directory.

Enters: a recipe, the images, the processes, and the directory of the run. Leaves, in it:

    features/             where a phase has `losses.local`: the feature network learnt from the images
    stage1/ stage2/ generator/
                          one run each: metrics.jsonl, images/, curves/, checkpoints/, tensorboard/
    stage1/tokenizer/     the tokenizer after stage 1
    codes/train/ codes/val/   the images as codes
    model/                the finished pair, for `alitok.Pipeline.from_pretrained`

All processes call the same steps; the first one writes the files.
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
from alitok.data.crops import CropRecipe
from alitok.data.sources.decoded import ImageSource
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.generator import Generator
from alitok.losses.local_features import LocalFeatures
from alitok.recipes.presets import Recipe
from alitok.run.encode_shards import Origin, encode_store
from alitok.run.originals import tell_left_out, verify
from alitok.run.steps import STEPS, TRAININGS
from alitok.run.tasks import Training, Trainings
from alitok.run.workspace import Workspace
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage
from alitok.train.features import finished_features
from alitok.train.loop import Trained, train


class Run:
    """One run.

    Args:
        recipe: all that is trained, and how.
        splits: the images as they were found.
        world: the processes.
        workspace: the run's directory.
        seed: of everything that is drawn at random.
    """

    def __init__(self, recipe: Recipe, splits: Splits, world: World, workspace: Workspace, seed: int) -> None:
        self.recipe, self.splits, self.world, self.workspace, self.seed = recipe, splits, world, workspace, seed
        self.root = workspace.root
        self._left_out: list[Broken] = []

    @property
    def trainings(self) -> Trainings:
        """The trainings on the images that can be used, once `check` has been done."""
        return Trainings(self.recipe, self.splits, self.world, self.root, self.seed)

    def step(self, name: str) -> dict[str, Any] | None:
        """Do a step by name, unless it is done or not needed.

        Returns:
            What it reported; None if it is not needed.

        Raises:
            AlitokError: what the step reads is not there.
        """
        if name == "features" and not needs_features(self.recipe):
            return None
        step, work = STEPS[name], getattr(self, name)
        title = step.title
        if name in TRAININGS:
            title = f"{title}, {sum(phase.steps for phase in getattr(self.recipe, name).phases)} steps"
        done = self.workspace.step(name, title, work, step.wanted)
        if name == "check":
            self._left_out = [Broken(*found) for found in done["broken"]]
            tell_left_out(self._left_out, self.workspace.console)
            self.splits = self.splits.without({key for key, _ in self._left_out})
        return done

    def check(self) -> dict[str, Any]:
        """Decode every image once, so that broken ones are known now and not hours later.

        Raises:
            AlitokError: too many are broken.
        """
        broken = verify(self.splits, "all", self.world, self.workspace.console)
        return {"train": len(self.splits.train), "val": len(self.splits.val), "broken": broken}

    def features(self) -> dict[str, Any]:
        """Train the feature network on classes and quarter turns."""
        training = self.trainings.features()
        network = training.model
        assert isinstance(network, LocalFeatures)
        trained = self._train(training)
        self._finish("features", lambda path: finished_features(trained.weights, network).save(path))
        return report(trained, network)

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
        return report(trained, tokenizer.decoder(stage) if stage == "stage2" else tokenizer)

    def encode(self) -> dict[str, Any]:
        """Write the codes of all images: every view for training, the fixed one of validation images."""
        place = self.root / "stage1" / "tokenizer"
        tokenizer = Tokenizer.from_pretrained(place).to(self.world.device)
        sources: dict[str, tuple[ImageSource, CropRecipe]] = {
            "train": (self.splits.train, self.recipe.crops),
            "val": (self.splits.val, "centre"),
        }
        for name, (source, crops) in sources.items():
            store = self.root / "codes" / name
            with progress_bar(self.workspace.console, f"{source.name} to codes", len(source)) as bar:
                encoded = encode_store(
                    tokenizer,
                    source,
                    store,
                    recipe=crops,
                    origin=Origin(
                        self.splits.name, self.splits.contents, name, str(place.resolve()), tuple(self._left_out)
                    ),
                    world=self.world,
                    workers=self.recipe.engine.workers,
                    progress=partial(_advance, bar),
                )
            if not encoded.whole:
                raise AlitokError(
                    f"{store} lacks shards that other processes made; if they share this disk, it is slow to show "
                    "them: start the same command again."
                )
        return {"images": len(self.splits)}

    def generator(self) -> dict[str, Any]:
        """Train the generator on stored codes; its samples along the way are drawn by the last decoder there is."""
        training = self.trainings.generator(self.tokenizer())
        generator = training.model
        assert isinstance(generator, Generator)
        trained = self._train(training)
        empty = Generator(generator.config, generator.class_names)
        self._finish("generator", lambda path: _loaded(empty, trained.weights).save_pretrained(path))
        return report(trained, generator)

    def pair(self) -> dict[str, Any]:
        """Write how both models are sampled, beside them: as `run.toml` says now.

        The halves may be trained side by side, and a generator of another size begun after this process read it.
        """

        def write() -> None:
            place = self.root / "run.toml"
            sampling = from_dict(Recipe, read_toml(place)["recipe"], str(place)).sampling
            Pipeline(self.tokenizer(), self._finished_generator(), sampling).save_head(self.root / "model")

        self.world.on_rank0(write)
        return {}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the last stage that is finished, on the device."""
        return Tokenizer.from_pretrained(self.trainings.tokenizer_path).to(self.world.device)

    def pipeline(self) -> Pipeline:
        """The finished pair, on the device, sampled as the recipe says."""
        return Pipeline(self.tokenizer(), self._finished_generator(), self.recipe.sampling)

    def _finished_generator(self) -> Generator:
        return Generator.from_pretrained(self.root / "model" / "generator").to(self.world.device)

    def _finish(self, name: str, write: Callable[[Path], None]) -> None:
        """Write the finished model of a step, on the first process; what is left of one without a head makes room."""
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
            console=self.workspace.console,
            engine=self.recipe.engine,
        )


def _advance(bar: Bar, done: int, total: int) -> None:
    bar.advance(done, {}, total)


def needs_features(recipe: Recipe) -> bool:
    """Whether some phase compares images in features learnt from them."""
    return any("local" in training.networks() for training in (recipe.stage1, recipe.stage2))


Model = TypeVar("Model", bound=nn.Module)


def _loaded(model: Model, weights: Tensors) -> Model:
    """A new model with finished weights: the trained one may be spread over processes."""
    model.load_state_dict(weights)
    return model.eval()


def report(trained: Trained, module: nn.Module) -> dict[str, Any]:
    """What a finished training is remembered by."""
    return {
        "earlier_seconds": trained.earlier_seconds,
        "step_seconds": trained.step_seconds,
        "steps": trained.steps,
        "batch_size": trained.batch_size,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


def settings(recipe: Recipe, splits: Splits, seed: int) -> dict[str, Any]:
    """What a run was asked for, for `run.toml`; all but the recipe's `engine` decides its results."""
    return {"data": splits.name, "contents": splits.contents, "seed": seed, "recipe": to_dict(recipe)}
