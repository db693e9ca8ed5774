"""The ablation's arms: tokenizers that differ in one thing each, with one budget for all of them.

Enters: a preset, an arm, a codebook size. Leaves: the recipe of that cell of the table.

Source: AliTok, table of the ablation; the arms' letters are the paper's, save for `CE`, which it reports as a check of
its own, `F-` and `V`, which it has not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.losses.objective import LossWeights
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

ArmName = Literal["A", "CE", "B", "C", "D", "E", "F", "F-", "V"]


@dataclass(frozen=True)
class Arm:
    """What one row of the table trains.

    Attributes:
        title: what differs, for people.
        causal_decoder, causal_encoder: which transformer reads from left to right.
        prefix: whether the first row has codes of its own in front.
        auxiliary: whether these are trained to draw the first row by themselves.
        longer: whether every training takes more steps.
        second_stage: what the decoder of a second stage reads; None = there is no second stage.
        codes_of: the arm whose codes and generator it shares, where it trains a second decoder only.
        convolutional: a plain convolutional tokenizer instead.
    """

    title: str
    causal_decoder: bool = True
    causal_encoder: bool = False
    prefix: bool = False
    auxiliary: bool = False
    longer: bool = False
    second_stage: Literal["all codes", "grid codes"] | None = None
    codes_of: ArmName | None = None
    convolutional: bool = False


ARMS: dict[ArmName, Arm] = {
    "A": Arm("bidirectional decoder", causal_decoder=False),
    "CE": Arm("A with a causal encoder", causal_decoder=False, causal_encoder=True),
    "B": Arm("causal decoder"),
    "C": Arm("B with prefix codes", prefix=True),
    "D": Arm("C with the auxiliary loss", prefix=True, auxiliary=True),
    "E": Arm("D trained longer", prefix=True, auxiliary=True, longer=True),
    "F": Arm("D and a second decoder", prefix=True, auxiliary=True, second_stage="all codes", codes_of="D"),
    "F-": Arm(
        "F without reading the prefix codes", prefix=True, auxiliary=True, second_stage="grid codes", codes_of="D"
    ),
    "V": Arm("plain convolutional tokenizer", causal_decoder=False, convolutional=True),
}
USUAL_ARMS: tuple[ArmName, ...] = ("A", "CE", "B", "C", "D", "F", "F-", "V")
CURVE_ARMS: tuple[ArmName, ...] = ("A", "B")  # compared at equal fidelity, over codebooks of several sizes


@config
class AblationPreset:
    """Sizes and budget of all cells.

    Attributes:
        most_side: pixels a side at most; smaller images are taken as they are.
        grid: cells a side.
        codebook_size: of the table; the comparison at equal fidelity also takes half and twice as many.
        code_width: numbers of a codebook entry.
        width, layers, heads: of the encoder and of each decoder.
        channels: of the convolutional tokenizer; with those of the presets, a step costs about as much as the
            transformers'.
        generator: size of the generator.
        batch_size: images of a step of the tokenizers.
        generator_batch_size: sequences of a step of the generator.
        tokenizer_steps, generator_steps, second_steps: optimizer steps of stage 1, the generator and stage 2.
        longer: by how much arm E multiplies them.
        perceptual: weight of the distance in features learnt from the images, the same network for all cells; with
            0, as in the presets, the loss of an image is its squared error alone.
        feature_steps: of that network's training, where there is one; not in the seconds that the table tells.
        samples: drawn in all, shared out evenly over the classes.
        guidance: of the samples; 1 draws from the model as it is, so that no arm gains by a lucky scale.
    """

    most_side: int
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
    second_steps: int
    longer: float = 2.0
    perceptual: float = 0.0
    feature_steps: int = 600
    samples: int
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        steps = "tokenizer_steps", "generator_steps", "second_steps", "feature_steps"
        sizes = "grid", "width", "layers", "heads", "channels", "batch_size", "generator_batch_size"
        require_at_least(self, 1, *sizes, *steps, "longer", "samples")
        require_at_least(self, 4, "codebook_size")
        require_at_least(self, 0, "perceptual")

    def image_size(self, side: int) -> int:
        """Pixels a side for images of `side`.

        Raises:
            AlitokError: images too small for the grid.
        """
        size = min(side, self.most_side) // self.grid * self.grid
        if size < 2 * self.grid:
            raise AlitokError(f"Images of {side} pixels a side are too small for {self.grid} codes a side.")
        return size


ABLATION_PRESETS = {
    # Minutes for a cell on two cores: images of 32 pixels in 16 codes of 8 x 8. So short a training fills no larger
    # codebook evenly, and how much of it each arm fills would then decide what its codes cost.
    "tiny": AblationPreset(
        most_side=32,
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
        second_steps=800,
        samples=700,
    ),
    # An hour or so for a cell on a GPU: 64 codes of 8 x 8.
    "small": AblationPreset(
        most_side=64,
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
        second_steps=10_000,
        feature_steps=2000,
        samples=5000,
    ),
}


def cell_recipe(preset: AblationPreset, arm: Arm, codebook_size: int, *, image_size: int, classes: int) -> Recipe:
    """The recipe of one cell.

    Args:
        preset: sizes and budget.
        arm: what differs.
        codebook_size: V.
        image_size: pixels a side, a multiple of the grid's cells a side.
        classes: of the images; the samples are shared out over them.

    Raises:
        AlitokError: sizes that do not fit one another.
    """
    factor = preset.longer if arm.longer else 1.0
    return Recipe(
        tokenizer=_tokenizer(preset, arm, codebook_size, image_size),
        stage1=_tokenizer_training(preset, round(factor * preset.tokenizer_steps), auxiliary=arm.auxiliary),
        stage2=_tokenizer_training(preset, preset.second_steps, auxiliary=False),
        generator_size=preset.generator,
        generator=_generator_training(preset, round(factor * preset.generator_steps)),
        features=_features_training(preset.feature_steps),
        crops="ten",
        sampling=SamplingConfig(guidance_scale=preset.guidance),
        samples_per_class=max(1, preset.samples // classes),
    )


def _tokenizer(preset: AblationPreset, arm: Arm, codebook_size: int, image_size: int) -> TokenizerConfig:
    plain = TokenizerConfig(
        image_size=image_size,
        patch_size=image_size // preset.grid,
        prefix=None if arm.prefix else 0,
        codebook_size=codebook_size,
        code_width=preset.code_width,
        encoder=EncoderConfig(width=preset.width, layers=preset.layers, heads=preset.heads, causal=arm.causal_encoder),
        stage1=_decoder(preset, causal=arm.causal_decoder, prefix_head=arm.auxiliary),
        stage2=_decoder(preset, reads_prefix=arm.second_stage != "grid codes"),
    )
    if not arm.convolutional:
        return plain
    return dataclasses.replace(
        plain,
        encoder=ConvolutionalEncoderConfig(channels=preset.channels),
        stage1=ConvolutionalDecoderConfig(channels=preset.channels),
    )


def _decoder(
    preset: AblationPreset, *, causal: bool = False, prefix_head: bool = False, reads_prefix: bool = True
) -> DecoderConfig:
    """All decoders have one size and one learned token in front."""
    return DecoderConfig(
        width=preset.width,
        layers=preset.layers,
        heads=preset.heads,
        causal=causal,
        extra_tokens=1,
        prefix_head=prefix_head,
        reads_prefix=reads_prefix,
    )


def _tokenizer_training(preset: AblationPreset, steps: int, *, auxiliary: bool) -> TokenizerTraining:
    phase = TokenizerPhase(
        steps=steps,
        learning_rate=1e-3,
        final_learning_rate=5e-5,
        warmup_steps=min(50, steps // 2),
        # Beside the squared error alone, a quantizer's loss of weight 1 rules the first steps: docs/architecture.md.
        losses=LossWeights(local=preset.perceptual, quantizer=0.1, auxiliary=float(auxiliary)),
    )
    return TokenizerTraining(loop=LoopConfig(batch_size=preset.batch_size, evaluate_every=500), phases=(phase,))


def _features_training(steps: int) -> FeaturesTraining:
    phase = Phase(steps=steps, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=min(50, steps // 2))
    return FeaturesTraining(phases=(phase,), loop=LoopConfig(batch_size=64))


def _generator_training(preset: AblationPreset, steps: int) -> GeneratorTraining:
    phase = Phase(steps=steps, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=min(50, steps // 2))
    loop = LoopConfig(batch_size=preset.generator_batch_size, optimizer=GENERATOR_ADAMW, evaluate_every=200)
    return GeneratorTraining(loop=loop, phases=(phase,))
