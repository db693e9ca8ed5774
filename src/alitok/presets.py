"""Named sizes and recipes, in one place.

`TOKENIZERS` and `GENERATORS` hold the published sizes, `RECIPES` everything a run from pictures to pictures needs.
Only the numbers differ between the small and the full-size entries: classes and code paths are the same.
"""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import Literal, get_args

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.data.codes import MAX_CODEBOOK
from alitok.data.crops import VIEWS, CropRecipe
from alitok.generator import GeneratorConfig, SamplingConfig
from alitok.losses.local_features import LocalFeaturesConfig
from alitok.losses.objective import LossWeights
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


@config
class GeneratorSize:
    """A generator's size, without what the tokenizer and the classes decide."""

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
    """Everything between a source of pictures and the finished models.

    Attributes:
        tokenizer: geometry and sizes; it has a stage-2 decoder.
        features: the feature network that is learnt from the pictures, where a phase has `losses.local`.
        stage1, stage2, generator: the three trainings.
        generator_size: size of the generator.
        crops: the views of each picture that the generator is trained on.
        sampling: how the samples are drawn.
        samples_per_class: samples that are drawn and measured.
        engine: how the trainings are laid over the machine; the only part that may change while a run goes on.
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
        """Refuse a recipe whose second stage has nothing to train."""
        if self.tokenizer.stage2 is None:
            raise AlitokError("tokenizer.stage2 is missing; a recipe trains both stages")
        require_at_least(self, 1, "samples_per_class")
        if self.tokenizer.codebook_size > MAX_CODEBOOK:
            raise AlitokError(f"tokenizer.codebook_size must be at most {MAX_CODEBOOK}, what stored codes can hold")
        self.generator_size.config(self.tokenizer, classes=1)  # refuses sizes that do not fit, before any training

    def training(self, stage: StageName) -> TokenizerTraining | GeneratorTraining:
        """The training of a stage."""
        if stage == "generator":
            return self.generator
        return self.stage1 if stage == "stage1" else self.stage2


# The released layout differs from the paper's in its prefix (17: a second copy of the top-left patch), its buffer
# (32 tokens) and in that its second decoder reads the prefix codes.
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

# Guided gFID as published, for the paper's models and (by SoftCFG's authors) for the released weights; and as measured
# with this project where that has been done.
PUBLISHED_GFID = {
    "alitok-256-B": 1.44,
    "alitok-256-L": 1.38,
    "alitok-256-XL": 1.28,
    "alitok-256-v1-B": 1.50,
    "alitok-256-v1-L": 1.42,
    "alitok-256-v1-XL": 1.35,
}
MEASURED_GFID: dict[str, float] = {}


def _small_tokenizer(
    *, image_size: int, patch_size: int, codebook_size: int, code_width: int, width: int, layers: int, heads: int
) -> TokenizerConfig:
    """The paper's layout in small: causal decoder with a leading token, then a bidirectional one with a buffer.

    The second decoder reads the prefix: on so short a sequence it holds too much of the picture to be dropped.
    """
    return TokenizerConfig(
        image_size=image_size,
        patch_size=patch_size,
        codebook_size=codebook_size,
        code_width=code_width,
        encoder=EncoderConfig(width=width, layers=layers, heads=heads),
        stage1=DecoderConfig(width=width, layers=layers, heads=heads, causal=True, extra_tokens=1, prefix_head=True),
        stage2=DecoderConfig(width=width * 3 // 2, layers=layers + 1, heads=heads, extra_tokens=8),
    )


def _tokenizer_training(*, steps: int) -> TokenizerTraining:
    # After a short warm-up the features can collapse onto few codes; measured in docs/architecture.md.
    phase = TokenizerPhase(steps=steps, learning_rate=2e-3, final_learning_rate=1e-4, warmup_steps=min(250, steps // 2))
    return TokenizerTraining(loop=LoopConfig(batch_size=64, evaluate_every=100), phases=(phase,))


def _generator_training(*, steps: int) -> GeneratorTraining:
    optimizer = dataclasses.replace(GENERATOR_ADAMW, ema_decay=0.998)
    phase = Phase(steps=steps, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=100)
    loop = LoopConfig(batch_size=64, optimizer=optimizer, evaluate_every=100)
    return GeneratorTraining(loop=loop, phases=(phase,))


IMAGENET_PICTURES = 1_281_167  # for training


def _imagenet_generator(*, epochs: int) -> GeneratorTraining:
    """The published training of B and L (800 epochs) and XL (400), at batch 2048."""
    optimizer = dataclasses.replace(GENERATOR_ADAMW, ema_decay=0.9999)
    phase = Phase(
        steps=round(IMAGENET_PICTURES * epochs / 2048),
        learning_rate=4e-4,
        final_learning_rate=1e-5,
        warmup_steps=round(IMAGENET_PICTURES * 100 / 2048),
    )
    loop = LoopConfig(batch_size=2048, optimizer=optimizer, evaluate_every=10_000, checkpoint_every=2_500)
    return GeneratorTraining(loop=loop, phases=(phase,))


def _imagenet_tokenizer(
    *, main_steps: int, losses: LossWeights, adversarial: float, probe_every: int = 0
) -> TokenizerTraining:
    """The published phases, on 32 GPUs with 48 pictures each: start, main, GAN."""
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


# Weight of the distance in features learnt from the pictures themselves; 1 is too much, see docs/architecture.md.
_LOCAL = 0.1
_PAPER = LossWeights(convnext=1.0)
# Released: the first row by its squared error alone, and weights of its own for the two sides of the game.
_RELEASED = LossWeights(convnext=1.0, auxiliary=10 * 17 / 256, auxiliary_perceptual=False, discriminator=0.1)

RECIPES = {
    "digits": Recipe(
        tokenizer=_small_tokenizer(
            image_size=16, patch_size=4, codebook_size=128, code_width=16, width=64, layers=3, heads=4
        ),
        stage1=_tokenizer_training(steps=1200),
        stage2=_tokenizer_training(steps=800),
        generator_size=GeneratorSize(layers=4, width=96, heads=4),
        generator=_generator_training(steps=1200),
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5, top_k=20),
    ),
    "photos": Recipe(
        tokenizer=_small_tokenizer(
            image_size=32, patch_size=4, codebook_size=256, code_width=16, width=96, layers=3, heads=4
        ),
        stage1=_tokenizer_training(steps=1200),
        stage2=_tokenizer_training(steps=800),
        generator_size=GeneratorSize(layers=4, width=128, heads=4),
        generator=_generator_training(steps=1200),
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5),
        samples_per_class=20,
    ),
    # The paper's 600,000 steps of stage 1 are the released phases with a longer middle; both have the same stage 2.
    "alitok-256": _imagenet(TOKENIZERS["alitok-256"], stage1_main=450_000, losses=_PAPER, adversarial=0.1),
    "alitok-256-v1": _imagenet(TOKENIZERS["alitok-256-v1"], stage1_main=200_000, losses=_RELEASED, adversarial=0.005),
    "alitok-512": _imagenet(TOKENIZERS["alitok-512"], stage1_main=450_000, losses=_PAPER, adversarial=0.1),
}

RECIPE_CLASSES = {"digits": 10, "photos": 14}  # of the built-in pictures that the recipes are named after


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in the usual order."""
    text = resources.files("alitok").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


FITTED = ("small", "base")  # recipes that are cut to the pictures at hand
# A laptop has time for 64 codes a picture. With 64 pixels a side each would stand for 8 x 8, of which small models keep
# little but the colour; 4 x 4 show shapes.
_SMALL_SIDE, _SMALL_PATCH = 32, 4


def fitted(name: str, *, image_size: int, pictures: int) -> Recipe:
    """A recipe for pictures of one's own.

    `small` is for a laptop: minutes to an hour on two cores. `base` is for a GPU of its own: hours.

    Args:
        name: `small` or `base`.
        image_size: pixels a side that the pictures can fill: 16, 32, 64, 128 or 256; `small` takes at most 32.
        pictures: training pictures.
    """
    assert name in FITTED, name
    return _small(min(image_size, _SMALL_SIDE), pictures) if name == "small" else _base(image_size, pictures)


def _grown(at_thousand: int, pictures: int, most: int) -> int:
    """Steps for so many pictures: as given for up to 1,000, from there growing with the square root."""
    return min(most, round(at_thousand * max(1.0, pictures / 1000) ** 0.5))


def _codebook_size(sequence_length: int, pictures: int, most: int) -> int:
    """The largest power of two such that each entry is met at least 64 times among all crops; 64 at least."""
    return 1 << int(min(max(sequence_length * VIEWS["ten"] * pictures / 64, 64), most)).bit_length() - 1


def _small(image_size: int, pictures: int) -> Recipe:
    grid = image_size // _SMALL_PATCH
    return Recipe(
        tokenizer=_small_tokenizer(
            image_size=image_size,
            patch_size=_SMALL_PATCH,
            codebook_size=_codebook_size(grid + grid**2, pictures, 512),
            code_width=16,
            width=96,
            layers=3,
            heads=4,
        ),
        stage1=_small_stage1(_grown(2400, pictures, 12_000)),
        stage2=_tokenizer_training(steps=_grown(800, pictures, 4000)),
        generator_size=GeneratorSize(layers=4, width=128, heads=4),
        generator=_generator_training(steps=_grown(1200, pictures, 6000)),
        crops="ten",
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5),
        samples_per_class=20,
    )


def _small_stage1(steps: int) -> TokenizerTraining:
    """Small batches and a light quantizer's loss: features of few photographs else fall onto few codes for long."""
    phase = TokenizerPhase(
        steps=steps,
        learning_rate=1e-3,
        final_learning_rate=5e-5,
        warmup_steps=50,
        losses=LossWeights(quantizer=0.1),  # measured in docs/architecture.md
    )
    return TokenizerTraining(loop=LoopConfig(batch_size=32, evaluate_every=200), phases=(phase,))


def _base(image_size: int, pictures: int) -> Recipe:
    patch_size = max(4, image_size // 16)
    grid = image_size // patch_size
    return Recipe(
        tokenizer=TokenizerConfig(
            image_size=image_size,
            patch_size=patch_size,
            codebook_size=_codebook_size(grid + grid**2, pictures, 4096),
            encoder=EncoderConfig(width=512, layers=8, heads=8),
            stage1=DecoderConfig(width=512, layers=12, heads=8, causal=True, extra_tokens=1, prefix_head=True),
            stage2=DecoderConfig(width=768, layers=12, heads=12, extra_tokens=64, reads_prefix=grid < 16),
        ),
        features=FeaturesTraining(network=LocalFeaturesConfig(width=64)),
        stage1=_base_tokenizer(_grown(20_000, pictures, 200_000), probe_every=5_000),
        stage2=_base_tokenizer(_grown(10_000, pictures, 100_000)),
        generator_size=GeneratorSize(layers=12, width=512, heads=8),
        generator=GeneratorTraining(
            loop=LoopConfig(
                batch_size=256,
                optimizer=dataclasses.replace(GENERATOR_ADAMW, ema_decay=0.9995),
                evaluate_every=1000,
                checkpoint_every=1000,
            ),
            phases=(
                Phase(
                    steps=_grown(20_000, pictures, 300_000),
                    learning_rate=4e-4,
                    final_learning_rate=1e-5,
                    warmup_steps=1000,
                ),
            ),
        ),
        crops="ten",
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5),
        engine=EngineConfig(workers=4),
    )


def _base_tokenizer(steps: int, probe_every: int = 0) -> TokenizerTraining:
    """Three quarters with features learnt from the pictures, then a quarter with the discriminator."""
    optimizer = OptimizerConfig(weight_decay=0.01, ema_decay=0.999)
    losses, last = LossWeights(local=_LOCAL), steps // 4
    return TokenizerTraining(
        loop=LoopConfig(batch_size=128, optimizer=optimizer, evaluate_every=1000, checkpoint_every=1000),
        predictability=PredictabilityConfig(every=probe_every),
        phases=(
            TokenizerPhase(
                steps=steps - last,
                learning_rate=4e-4,
                final_learning_rate=5e-5,
                warmup_steps=1000,
                losses=losses,
            ),
            TokenizerPhase(
                name="gan",
                steps=last,
                learning_rate=5e-5,
                final_learning_rate=5e-6,
                losses=dataclasses.replace(losses, adversarial=0.1),
                discriminator=True,
            ),
        ),
    )


def with_generator(recipe: Recipe, name: str) -> Recipe:
    """The recipe with a published size of generator, its training and its guidance.

    Raises:
        AlitokError: there is no such size.
    """
    if name not in GENERATORS:
        raise AlitokError(f"There is no generator {name!r}; choose one of: {', '.join(GENERATORS)}.")
    return dataclasses.replace(
        recipe,
        generator_size=GENERATORS[name],
        generator=_imagenet_generator(epochs=400 if name == "XL" else 800),
        sampling=SAMPLING[name],
    )
