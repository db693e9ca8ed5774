"""Named sizes and recipes, in one place.

`TOKENIZERS` and `GENERATORS` hold the published sizes, `RECIPES` everything a run from pictures to pictures needs.
Only the numbers differ between the small and the full-size entries: classes and code paths are the same.
"""

from __future__ import annotations

from importlib import resources

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.data.codes import MAX_CODEBOOK
from alitok.generator import GeneratorConfig, SamplingConfig
from alitok.tokenizer import DecoderConfig, EncoderConfig, TokenizerConfig
from alitok.train.generator import GeneratorTraining
from alitok.train.optim import OptimizerConfig
from alitok.train.task import LoopConfig
from alitok.train.tokenizer import TokenizerTraining


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
        stage1, stage2, generator: the three trainings.
        generator_size: size of the generator.
        sampling: how the samples are drawn.
        samples_per_class: samples that are drawn and measured.
    """

    tokenizer: TokenizerConfig
    stage1: TokenizerTraining
    stage2: TokenizerTraining
    generator_size: GeneratorSize
    generator: GeneratorTraining
    sampling: SamplingConfig = SamplingConfig()
    samples_per_class: int = 50

    def __post_init__(self) -> None:
        """Refuse a recipe whose second stage has nothing to train."""
        if self.tokenizer.stage2 is None:
            raise AlitokError("tokenizer.stage2 is missing; a recipe trains both stages")
        require_at_least(self, 1, "samples_per_class")
        if self.tokenizer.codebook_size > MAX_CODEBOOK:
            raise AlitokError(f"tokenizer.codebook_size must be at most {MAX_CODEBOOK}, what stored codes can hold")
        self.generator_size.config(self.tokenizer, classes=1)  # refuses sizes that do not fit, before any training


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


def _tokenizer_training(*, steps: int, batch_size: int = 64) -> TokenizerTraining:
    # After a short warm-up the features can collapse onto few codes; measured in docs/architecture.md.
    optimizer = OptimizerConfig(learning_rate=2e-3, final_learning_rate=1e-4, warmup_steps=250)
    loop = LoopConfig(steps=steps, batch_size=batch_size, optimizer=optimizer, evaluate_every=100)
    return TokenizerTraining(loop=loop)


def _generator_training(*, steps: int, batch_size: int = 64) -> GeneratorTraining:
    optimizer = OptimizerConfig(
        learning_rate=1e-3,
        final_learning_rate=1e-5,
        warmup_steps=100,
        betas=(0.9, 0.96),
        weight_decay=0.03,
        ema_decay=0.998,
    )
    loop = LoopConfig(steps=steps, batch_size=batch_size, optimizer=optimizer, evaluate_every=100)
    return GeneratorTraining(loop=loop)


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
}

RECIPE_CLASSES = {"digits": 10, "photos": 14}  # of the built-in pictures that the recipes are named after


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in the usual order."""
    text = resources.files("alitok").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def recipe_for(data: str) -> Recipe:
    """The recipe of a built-in set by its name; any other data gets that of `photos`."""
    return RECIPES.get(data, RECIPES["photos"])
