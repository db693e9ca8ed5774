"""Recipes fitted to the user's images: `small` for a laptop, `base` for a GPU."""

from __future__ import annotations

import dataclasses

from alitok.data.crops import VIEWS
from alitok.losses.objective import LossWeights
from alitok.losses.perceptual import LocalFeaturesConfig
from alitok.recipes.presets import SMALL_PATCH, GeneratorSize, Recipe, small_recipe
from alitok.sampling import SamplingConfig
from alitok.tokenizer import DecoderConfig, EncoderConfig, TokenizerConfig
from alitok.train.features import FeaturesTraining
from alitok.train.generator import GeneratorTraining
from alitok.train.optim import GENERATOR_ADAMW, OptimizerConfig
from alitok.train.predictability import PredictabilityConfig
from alitok.train.schedule import Phase
from alitok.train.task import EngineConfig, LoopConfig
from alitok.train.tokenizer import TokenizerPhase, TokenizerTraining

FITTED = ("small", "base")
# A laptop has time for 64 codes per image: 8 x 8 px patches of a 64 px image, of which small models preserve little but
# the color, or 4 x 4 px patches of a 32 px image, which show shapes.
_SMALL_SIZE = 32
# Weight of the distance in features learned from the images themselves; 1 is too much, see docs/architecture.md.
_LOCAL = 0.1


def fitted(name: str, *, image_size: int, images: int) -> Recipe:
    """A recipe for the user's images: minutes to an hour on two cores for `small`, hours on one GPU for `base`.

    `image_size` is 16, 32, 64, 128 or 256 px, what the images can fill; `small` uses at most 32.
    """
    assert name in FITTED, name
    return _small(min(image_size, _SMALL_SIZE), images) if name == "small" else _base(image_size, images)


def _grown(at_thousand: int, images: int, most: int) -> int:
    """Steps for this many images: `at_thousand` for up to 1,000, growing with the square root from there."""
    return min(most, round(at_thousand * max(1.0, images / 1000) ** 0.5))


def _codebook_size(sequence_length: int, images: int, most: int) -> int:
    """The largest power of two for which each entry occurs at least 64 times among all crops; at least 64."""
    return 1 << int(min(max(sequence_length * VIEWS["ten"] * images / 64, 64), most)).bit_length() - 1


def _small(image_size: int, images: int) -> Recipe:
    grid = image_size // SMALL_PATCH
    # Small batches and a low quantizer loss weight; otherwise features of few photos stay on few codes for long.
    phase = TokenizerPhase(
        steps=_grown(2400, images, 12_000),
        learning_rate=1e-3,
        final_learning_rate=5e-5,
        warmup_steps=50,
        losses=LossWeights(quantizer=0.1),  # measured in docs/architecture.md
    )
    return small_recipe(
        image_size=image_size,
        codebook_size=_codebook_size(grid + grid**2, images, 512),
        width=96,
        stage1=TokenizerTraining(loop=LoopConfig(batch_size=32, evaluate_every=200), phases=(phase,)),
        stage2_steps=_grown(800, images, 4000),
        generator_steps=_grown(1200, images, 6000),
        crops="ten",
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5),
    )


def _base(image_size: int, images: int) -> Recipe:
    patch_size = max(4, image_size // 16)
    grid, steps = image_size // patch_size, _grown(20_000, images, 300_000)
    phase = Phase(steps=steps, learning_rate=4e-4, final_learning_rate=1e-5, warmup_steps=1000)
    return Recipe(
        tokenizer=TokenizerConfig(
            image_size=image_size,
            patch_size=patch_size,
            codebook_size=_codebook_size(grid + grid**2, images, 4096),
            encoder=EncoderConfig(width=512, layers=8, heads=8),
            stage1=DecoderConfig(width=512, layers=12, heads=8, causal=True, extra_tokens=1, prefix_head=True),
            stage2=DecoderConfig(width=768, layers=12, heads=12, extra_tokens=64, reads_prefix=grid < 16),
        ),
        features=FeaturesTraining(network=LocalFeaturesConfig(width=64)),
        stage1=_base_tokenizer(_grown(20_000, images, 200_000), probe_every=5_000),
        stage2=_base_tokenizer(_grown(10_000, images, 100_000)),
        generator_size=GeneratorSize(layers=12, width=512, heads=8),
        generator=GeneratorTraining(
            loop=LoopConfig(
                batch_size=256,
                optimizer=dataclasses.replace(GENERATOR_ADAMW, ema_decay=0.9995),
                evaluate_every=1000,
                checkpoint_every=1000,
            ),
            phases=(phase,),
        ),
        crops="ten",
        sampling=SamplingConfig(guidance_scale=3.0, guidance_power=0.5),
        engine=EngineConfig(workers=4),
    )


def _base_tokenizer(steps: int, probe_every: int = 0) -> TokenizerTraining:
    """Three quarters with features learned from the images, then a quarter with the discriminator."""
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
