"""The table of named models; parameters are counted on models built without memory for their weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from alitok.generator import Generator
from alitok.recipes.presets import (
    GENERATORS,
    MEASURED_GFID,
    PUBLISHED_GFID,
    RECIPE_CLASSES,
    RECIPES,
    SAMPLING,
    TOKENIZERS,
    GeneratorSize,
)
from alitok.sampling import SamplingConfig
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One named model; None where a value does not apply or is not known.

    Attributes:
        layers, width, heads: one number for a generator; encoder and stage-2 decoder for a tokenizer.
        buffer: learned tokens in front of the stage-2 decoder.
        parameters: of a generator; of encoder, codebook and stage-2 decoder of a tokenizer (what an image needs).
        training_parameters: those and, for a tokenizer, the stage-1 decoder.
        published_gfid, measured_gfid: guided, of the paper and measured with this project.
    """

    name: str
    kind: Literal["tokenizer", "generator"]
    image_size: int
    layers: tuple[int, ...]
    width: tuple[int, ...]
    heads: tuple[int, ...]
    prefix: int
    buffer: int | None = None
    reads_prefix: bool | None = None
    codes: int
    guidance_scale: float | None = None
    guidance_power: float | None = None
    parameters: int
    training_parameters: int
    published_gfid: float | None = None
    measured_gfid: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The row without its name; a tuple of one number becomes the number."""
        row = {key: value for key, value in asdict(self).items() if key != "name"}
        return {key: value[0] if isinstance(value, tuple) and len(value) == 1 else value for key, value in row.items()}


def parameters(module: nn.Module | None) -> int:
    """Number of values, trained or not; 0 without a module."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def model_rows() -> list[ModelRow]:
    """All named models: the full-size ones first, then the small ones of the recipes."""
    rows = []
    for name, tokenizer in TOKENIZERS.items():
        rows.append(_tokenizer_row(name, tokenizer))
        for letter, size in GENERATORS.items():
            rows.append(_generator_row(f"{name}-{letter}", tokenizer, size, IMAGENET_CLASSES, SAMPLING[letter]))
    for name, classes in RECIPE_CLASSES.items():
        recipe = RECIPES[name]
        rows.append(_tokenizer_row(name, recipe.tokenizer))
        size = recipe.generator_size
        rows.append(_generator_row(f"{name}-generator", recipe.tokenizer, size, classes, recipe.sampling))
    return rows


def _tokenizer_row(name: str, config: TokenizerConfig) -> ModelRow:
    encoder, last = config.encoder, config.stage2
    assert isinstance(encoder, EncoderConfig), "named models are transformers"
    assert isinstance(last, DecoderConfig)
    with torch.device("meta"):
        tokenizer = Tokenizer(config)
    return ModelRow(
        name=name,
        kind="tokenizer",
        image_size=config.image_size,
        layers=(encoder.layers, last.layers),
        width=(encoder.width, last.width),
        heads=(encoder.heads, last.heads),
        prefix=config.prefix_length,
        buffer=last.extra_tokens,
        reads_prefix=last.reads_prefix,
        codes=config.sequence_length,
        parameters=parameters(tokenizer) - parameters(tokenizer.stage1),
        training_parameters=parameters(tokenizer),
    )


def _generator_row(
    name: str, tokenizer: TokenizerConfig, size: GeneratorSize, classes: int, sampling: SamplingConfig
) -> ModelRow:
    with torch.device("meta"):
        count = parameters(Generator(size.config(tokenizer, classes)))
    return ModelRow(
        name=name,
        kind="generator",
        image_size=tokenizer.image_size,
        layers=(size.layers,),
        width=(size.width,),
        heads=(size.heads,),
        prefix=tokenizer.prefix_length,
        codes=tokenizer.sequence_length,
        guidance_scale=sampling.guidance_scale,
        guidance_power=sampling.guidance_power,
        parameters=count,
        training_parameters=count,
        published_gfid=PUBLISHED_GFID.get(name),
        measured_gfid=MEASURED_GFID.get(name),
    )
