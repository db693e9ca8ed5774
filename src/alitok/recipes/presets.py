"""Named sizes, and recipes from images to images; small and full-size entries differ in numbers only."""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import Literal, get_args

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.data.codes import MAX_CODEBOOK
from alitok.data.crops import CropRecipe
from alitok.generator import GeneratorConfig
from alitok.losses.objective import LossWeights
from alitok.sampling import SamplingConfig
from alitok.tokenizer import DecoderConfig, EncoderConfig, TokenizerConfig
from alitok.train.features import FeaturesTraining
from alitok.train.generator import GeneratorTraining
from alitok.train.optim import GENERATOR_ADAMW, OptimizerConfig
from alitok.train.predictability import PredictabilityConfig
from alitok.train.schedule import Phase
from alitok.train.task import EngineConfig, LoopConfig
from alitok.train.tokenizer import TokenizerPhase, TokenizerTraining

StageName = Literal["stage1", "stage2", "generator"]
STAGES: tuple[StageName, ...] = get_args(StageName)
SMALL_PATCH = 4  # px


@config
class GeneratorSize:
    """A generator's size, without what the tokenizer and the classes determine."""

    layers: int
    width: int
    heads: int
    dropout: float = 0.1

    def config(self, tokenizer: TokenizerConfig, classes: int) -> GeneratorConfig:
        """The full configuration for the codes of `tokenizer`."""
        return GeneratorConfig(
            grid=tokenizer.grid,
            prefix=tokenizer.prefix_length,
            codebook_size=tokenizer.codebook_size,
            classes=classes,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            dropout=self.dropout,
        )


@config
class Recipe:
    """Everything between a source of images and the finished models.

    Attributes:
        tokenizer: geometry and sizes; it has a stage-2 decoder.
        features: the feature network trained on the images, where a phase has `losses.local`.
        crops: the views of each image that the generator is trained on.
        samples_per_class: images sampled and measured.
        engine: how training uses the machine; the only part that may change during a run.
    """

    tokenizer: TokenizerConfig
    features: FeaturesTraining = FeaturesTraining()
    stage1: TokenizerTraining
    stage2: TokenizerTraining
    generator_size: GeneratorSize
    generator: GeneratorTraining
    crops: CropRecipe = "centre"
    sampling: SamplingConfig = SamplingConfig()
    samples_per_class: int = 50
    engine: EngineConfig = EngineConfig()

    def __post_init__(self) -> None:
        if self.tokenizer.stage2 is None:
            raise AlitokError("tokenizer.stage2 is missing; a recipe trains both stages")
        require_at_least(self, 1, "samples_per_class")
        if self.tokenizer.codebook_size > MAX_CODEBOOK:
            raise AlitokError(f"tokenizer.codebook_size must be at most {MAX_CODEBOOK}, the limit of stored codes")
        self.generator_size.config(self.tokenizer, classes=1)  # rejects invalid sizes before any training

    def training(self, stage: StageName) -> TokenizerTraining | GeneratorTraining:
        """The training of a stage."""
        if stage == "generator":
            return self.generator
        return self.stage1 if stage == "stage1" else self.stage2


# The released layout differs from the paper's: 17 prefix codes (a second copy of the top-left patch), 32 buffer tokens,
# and a stage-2 decoder that reads the prefix codes.
TOKENIZERS = {
    "alitok-256": TokenizerConfig(),
    "alitok-256-v1": TokenizerConfig(prefix=17, stage2=DecoderConfig(extra_tokens=32)),
    "alitok-512": TokenizerConfig(image_size=512),
}

GENERATORS = {
    #                      layers     width       heads
    "B": GeneratorSize(layers=24, width=768, heads=16),
    "L": GeneratorSize(layers=24, width=1024, heads=16),
    "XL": GeneratorSize(layers=32, width=1280, heads=16),
}

# Guidance of the released models.
SAMPLING = {
    "B": SamplingConfig(guidance_scale=16.0, guidance_power=1.8),
    "L": SamplingConfig(guidance_scale=6.0, guidance_power=0.7),
    "XL": SamplingConfig(guidance_scale=13.0, guidance_power=1.4),
}

# Guided gFID as published, for the paper's models and (by SoftCFG's authors) for the released weights; then as measured
# with this project.
PUBLISHED_GFID = {
    "alitok-256-B": 1.44,
    "alitok-256-L": 1.38,
    "alitok-256-XL": 1.28,
    "alitok-256-v1-B": 1.50,
    "alitok-256-v1-L": 1.42,
    "alitok-256-v1-XL": 1.35,
}
MEASURED_GFID: dict[str, float] = {}


def small_recipe(
    *,
    image_size: int,
    codebook_size: int,
    width: int,
    stage1: TokenizerTraining,
    stage2_steps: int = 800,
    generator_width: int = 128,
    generator_steps: int = 1200,
    sampling: SamplingConfig,
    samples_per_class: int = 20,
    crops: CropRecipe = "centre",
) -> Recipe:
    """The paper's layout for a laptop; stage 2 reads the prefix, which in a short sequence holds too much to drop."""
    optimizer = dataclasses.replace(GENERATOR_ADAMW, ema_decay=0.998)
    phase = Phase(steps=generator_steps, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=100)
    return Recipe(
        tokenizer=TokenizerConfig(
            image_size=image_size,
            patch_size=SMALL_PATCH,
            codebook_size=codebook_size,
            code_width=16,
            encoder=EncoderConfig(width=width, layers=3, heads=4),
            stage1=DecoderConfig(width=width, layers=3, heads=4, causal=True, extra_tokens=1, prefix_head=True),
            stage2=DecoderConfig(width=width * 3 // 2, layers=4, heads=4, extra_tokens=8),
        ),
        stage1=stage1,
        stage2=small_tokenizer_training(steps=stage2_steps),
        generator_size=GeneratorSize(layers=4, width=generator_width, heads=4),
        generator=GeneratorTraining(
            loop=LoopConfig(batch_size=64, optimizer=optimizer, evaluate_every=100), phases=(phase,)
        ),
        crops=crops,
        sampling=sampling,
        samples_per_class=samples_per_class,
    )


def small_tokenizer_training(*, steps: int) -> TokenizerTraining:
    """One phase of either stage, without feature networks or discriminator."""
    # After a short warmup the features can collapse onto few codes; measured in docs/architecture.md.
    phase = TokenizerPhase(steps=steps, learning_rate=2e-3, final_learning_rate=1e-4, warmup_steps=min(250, steps // 2))
    return TokenizerTraining(loop=LoopConfig(batch_size=64, evaluate_every=100), phases=(phase,))


IMAGENET_IMAGES = 1_281_167  # for training


def _imagenet_generator(*, epochs: int) -> GeneratorTraining:
    """The published training of B and L (800 epochs) and XL (400), at batch size 2048."""
    optimizer = dataclasses.replace(GENERATOR_ADAMW, ema_decay=0.9999)
    phase = Phase(
        steps=round(IMAGENET_IMAGES * epochs / 2048),
        learning_rate=4e-4,
        final_learning_rate=1e-5,
        warmup_steps=round(IMAGENET_IMAGES * 100 / 2048),
    )
    loop = LoopConfig(batch_size=2048, optimizer=optimizer, evaluate_every=10_000, checkpoint_every=2_500)
    return GeneratorTraining(loop=loop, phases=(phase,))


def _imagenet_tokenizer(
    *, main_steps: int, losses: LossWeights, adversarial: float, probe_every: int = 0
) -> TokenizerTraining:
    """The published phases, on 32 GPUs with 48 images each: start, main, GAN."""
    optimizer = OptimizerConfig(weight_decay=0.01, ema_decay=0.999)
    loop = LoopConfig(batch_size=1536, optimizer=optimizer, evaluate_every=5_000, checkpoint_every=2_500)
    return TokenizerTraining(
        loop=loop,
        predictability=PredictabilityConfig(every=probe_every),
        phases=(
            TokenizerPhase(
                name="start",
                steps=50_000,
                learning_rate=1e-4,
                final_learning_rate=1e-4,
                warmup_steps=10_000,
                losses=dataclasses.replace(losses, lpips=1.0, convnext=0.1),
            ),
            TokenizerPhase(name="main", steps=main_steps, learning_rate=1e-4, final_learning_rate=2e-5, losses=losses),
            TokenizerPhase(
                name="gan",
                steps=100_000,
                learning_rate=2e-5,
                final_learning_rate=2e-6,
                losses=dataclasses.replace(losses, adversarial=adversarial),
                discriminator=True,
            ),
        ),
    )


def _imagenet(tokenizer: TokenizerConfig, *, stage1_main: int, losses: LossWeights, adversarial: float) -> Recipe:
    return Recipe(
        tokenizer=tokenizer,
        stage1=_imagenet_tokenizer(main_steps=stage1_main, losses=losses, adversarial=adversarial, probe_every=25_000),
        stage2=_imagenet_tokenizer(main_steps=150_000, losses=losses, adversarial=adversarial),
        generator_size=GENERATORS["B"],
        generator=_imagenet_generator(epochs=800),
        crops="ten",
        sampling=SAMPLING["B"],
        engine=EngineConfig(workers=8),
    )


_PAPER = LossWeights(convnext=1.0)
# Released: MSE only for the first row, and separate weights of generator and discriminator.
_RELEASED = LossWeights(convnext=1.0, auxiliary=10 * 17 / 256, auxiliary_perceptual=False, discriminator=0.1)

RECIPES = {
    "digits": small_recipe(
        image_size=16,
        codebook_size=128,
        width=64,
        stage1=small_tokenizer_training(steps=1200),
        generator_width=96,
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5, top_k=20),
        samples_per_class=50,
    ),
    "photos": small_recipe(
        image_size=32,
        codebook_size=256,
        width=96,
        stage1=small_tokenizer_training(steps=1200),
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5),
    ),
    # The paper's 600,000 steps of stage 1 are the released phases with a longer main phase; stage 2 is the same.
    "alitok-256": _imagenet(TOKENIZERS["alitok-256"], stage1_main=450_000, losses=_PAPER, adversarial=0.1),
    "alitok-256-v1": _imagenet(TOKENIZERS["alitok-256-v1"], stage1_main=200_000, losses=_RELEASED, adversarial=0.005),
    "alitok-512": _imagenet(TOKENIZERS["alitok-512"], stage1_main=450_000, losses=_PAPER, adversarial=0.1),
}

RECIPE_CLASSES = {"digits": 10, "photos": 14}  # of the built-in datasets that the recipes are named after


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in the standard order."""
    text = resources.files("alitok").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def with_generator(recipe: Recipe, name: str) -> Recipe:
    """The recipe with a published generator size, its training and its guidance; `AlitokError` if unknown."""
    if name not in GENERATORS:
        raise AlitokError(f"Unknown generator {name!r}; choose one of: {', '.join(GENERATORS)}.")
    return dataclasses.replace(
        recipe,
        generator_size=GENERATORS[name],
        generator=_imagenet_generator(epochs=400 if name == "XL" else 800),
        sampling=SAMPLING[name],
    )
