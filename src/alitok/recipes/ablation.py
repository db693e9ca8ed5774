"""Presets of the ablation and the recipe of each of its cells: one budget for all arms."""

from __future__ import annotations

import dataclasses
import functools

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.losses.objective import LossWeights
from alitok.recipes.arms import Arm
from alitok.recipes.presets import GeneratorSize, Recipe
from alitok.sampling import SamplingConfig
from alitok.tokenizer import DecoderConfig, EncoderConfig, TokenizerConfig
from alitok.tokenizer.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from alitok.train.features import FeaturesTraining
from alitok.train.generator import GeneratorTraining
from alitok.train.optim import GENERATOR_ADAMW
from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig
from alitok.train.tokenizer import TokenizerPhase, TokenizerTraining


@config
class AblationPreset:
    """Sizes and budget of all cells.

    Attributes:
        max_image_size: px; smaller images keep their size.
        grid: patches per side.
        codebook_size: of the main table; the comparison at equal PSNR also takes half and twice as many.
        code_width: dimension of a codebook entry.
        width, layers, heads: of the encoder and of each decoder.
        channels: of the convolutional tokenizer; in the presets, a step costs about as much as the transformers'.
        batch_size: images per step of the tokenizers.
        generator_batch_size: sequences per step of the generator.
        tokenizer_steps, generator_steps, stage2_steps: optimizer steps of stage 1, the generator and stage 2.
        longer: factor of the steps for arm E.
        perceptual: weight of the distance in features learned from the images, alike for all cells; 0 = MSE alone.
        feature_steps: of that network's training, if used; not in the seconds of the table.
        samples: in total, split evenly over the classes.
        guidance: scale of the samples; 1 samples the model as it is, so that no arm gains by a lucky scale.
    """

    max_image_size: int
    grid: int
    codebook_size: int
    code_width: int = 16
    width: int
    layers: int
    heads: int
    channels: int
    generator: GeneratorSize
    batch_size: int
    generator_batch_size: int
    tokenizer_steps: int
    generator_steps: int
    stage2_steps: int
    longer: float = 2.0
    perceptual: float = 0.0
    feature_steps: int = 600
    samples: int
    guidance: float = 1.0

    def __post_init__(self) -> None:
        steps = "tokenizer_steps", "generator_steps", "stage2_steps", "feature_steps"
        sizes = "grid", "width", "layers", "heads", "channels", "batch_size", "generator_batch_size"
        require_at_least(self, 1, *sizes, *steps, "longer", "samples")
        require_at_least(self, 4, "codebook_size")
        require_at_least(self, 0, "perceptual")

    def image_size(self, available: int) -> int:
        """Image size, a multiple of the grid, for images of `available` px; `AlitokError` if they are too small."""
        size = min(available, self.max_image_size) // self.grid * self.grid
        if size < 2 * self.grid:
            raise AlitokError(f"Images of {available} px are too small for {self.grid} x {self.grid} codes.")
        return size


ABLATION_PRESETS = {
    # Minutes per cell on two cores: images of 32 px in 16 codes of 8 x 8 px. So short a training does not use a larger
    # codebook evenly, and the fraction that each arm uses would then decide what its codes cost.
    "tiny": AblationPreset(
        max_image_size=32,
        grid=4,
        codebook_size=64,
        width=96,
        layers=3,
        heads=4,
        channels=8,
        generator=GeneratorSize(layers=3, width=96, heads=4),
        batch_size=32,
        generator_batch_size=64,
        tokenizer_steps=2400,
        generator_steps=400,
        stage2_steps=800,
        samples=700,
    ),
    # About an hour per cell on a GPU: 64 codes of 8 x 8 px.
    "small": AblationPreset(
        max_image_size=64,
        grid=8,
        codebook_size=1024,
        width=256,
        layers=6,
        heads=8,
        channels=28,
        generator=GeneratorSize(layers=8, width=384, heads=8),
        batch_size=128,
        generator_batch_size=128,
        tokenizer_steps=20_000,
        generator_steps=10_000,
        stage2_steps=10_000,
        feature_steps=2000,
        samples=5000,
    ),
}


def cell_recipe(preset: AblationPreset, arm: Arm, codebook_size: int, *, image_size: int, classes: int) -> Recipe:
    """The recipe of one cell for `image_size` px, a multiple of the grid; `AlitokError` if sizes are inconsistent."""
    factor = preset.longer if arm.longer else 1.0
    generator_loop = LoopConfig(batch_size=preset.generator_batch_size, optimizer=GENERATOR_ADAMW, evaluate_every=200)
    return Recipe(
        tokenizer=_tokenizer(preset, arm, codebook_size, image_size),
        stage1=_tokenizer_training(preset, round(factor * preset.tokenizer_steps), auxiliary=arm.auxiliary),
        stage2=_tokenizer_training(preset, preset.stage2_steps, auxiliary=False),
        generator_size=preset.generator,
        generator=GeneratorTraining(loop=generator_loop, phases=(_phase(round(factor * preset.generator_steps)),)),
        features=FeaturesTraining(loop=LoopConfig(batch_size=64), phases=(_phase(preset.feature_steps),)),
        crops="ten",
        sampling=SamplingConfig(guidance_scale=preset.guidance),
        samples_per_class=max(1, preset.samples // classes),
    )


def _tokenizer(preset: AblationPreset, arm: Arm, codebook_size: int, image_size: int) -> TokenizerConfig:
    # All decoders have one size and one learned token before the codes.
    decoder = functools.partial(
        DecoderConfig, width=preset.width, layers=preset.layers, heads=preset.heads, extra_tokens=1
    )
    plain = TokenizerConfig(
        image_size=image_size,
        patch_size=image_size // preset.grid,
        prefix=None if arm.prefix else 0,
        codebook_size=codebook_size,
        code_width=preset.code_width,
        encoder=EncoderConfig(width=preset.width, layers=preset.layers, heads=preset.heads, causal=arm.causal_encoder),
        stage1=decoder(causal=arm.causal_decoder, prefix_head=arm.auxiliary),
        stage2=decoder(reads_prefix=arm.stage2 != "grid codes"),
    )
    if not arm.convolutional:
        return plain
    return dataclasses.replace(
        plain,
        encoder=ConvolutionalEncoderConfig(channels=preset.channels),
        stage1=ConvolutionalDecoderConfig(channels=preset.channels),
    )


def _tokenizer_training(preset: AblationPreset, steps: int, *, auxiliary: bool) -> TokenizerTraining:
    phase = TokenizerPhase(
        steps=steps,
        learning_rate=1e-3,
        final_learning_rate=5e-5,
        warmup_steps=min(50, steps // 2),
        # With MSE alone, a quantizer loss weight of 1 dominates the first steps: docs/architecture.md.
        losses=LossWeights(local=preset.perceptual, quantizer=0.1, auxiliary=float(auxiliary)),
    )
    return TokenizerTraining(loop=LoopConfig(batch_size=preset.batch_size, evaluate_every=500), phases=(phase,))


def _phase(steps: int) -> Phase:
    return Phase(steps=steps, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=min(50, steps // 2))
