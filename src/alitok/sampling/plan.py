"""A sampling job as it is asked for, in terms of a saved model; and that model's hash."""

from __future__ import annotations

from collections.abc import Sequence

from alitok.core.checkpoint import fingerprint
from alitok.core.config import to_dict
from alitok.core.console import counted
from alitok.core.device import DeviceName
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.sampling.job import SamplingPlan
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.settings import EnginePrecision, SamplingOverrides

_MOST_UNASKED = 64  # images where no number is given


def load_pipeline(model: str, world: World, device: DeviceName, precision: EnginePrecision) -> Pipeline:
    """A saved pair on the device of each process, fetched by the first one where it is on the hub."""
    world.on_rank0(lambda: locate(model))
    return Pipeline.from_pretrained(model, device=device, precision=precision)


def plan_of(
    pipeline: Pipeline,
    *,
    classes: Sequence[str] = (),
    num: int | None = None,
    per_class: int | None = None,
    seed: int = 0,
    sampling: SamplingOverrides,
) -> SamplingPlan:
    """The job that is asked for, by the model's classes and its own way of sampling.

    Raises:
        AlitokError: a class is unknown or named twice, numbers do not agree, or a setting is out of its range.
    """
    numbers = _classes(pipeline, classes)
    count = _count(len(numbers), num, per_class)
    return SamplingPlan(numbers, count, seed, sampling.apply_to(pipeline.sampling))


def _classes(pipeline: Pipeline, asked: Sequence[str]) -> tuple[int, ...]:
    if not asked:
        return tuple(range(pipeline.generator.config.classes))
    numbers = [pipeline.class_number(name) for name in asked]
    for place, number in enumerate(numbers):
        if number in numbers[:place]:
            raise AlitokError(f"--classes names class {number} twice ('{asked[place]}'); name each once.")
    return tuple(numbers)


def _count(classes: int, num: int | None, per_class: int | None) -> int:
    for name, value in (("--num", num), ("--per-class", per_class)):
        if value is not None and value < 1:
            raise AlitokError(f"{name} must be at least 1, not {value}.")
    if per_class is None:
        return num or min(classes, _MOST_UNASKED)
    if num is not None and num != per_class * classes:
        raise AlitokError(
            f"--num {num} and --per-class {per_class} do not agree: {per_class} of each of "
            f"{counted(classes, 'class', 'classes')} are {per_class * classes}; give one of them."
        )
    return per_class * classes


def model_hash(pipeline: Pipeline) -> str:
    """A hash of what decides images: generator, codebook, and the decoder that is used."""
    tokenizer, generator = pipeline.tokenizer, pipeline.generator
    drawing = {"generator": generator, "quantizer": tokenizer.quantizer, "decoder": tokenizer.decoder()}
    tensors = {f"{part}.{name}": value for part, model in drawing.items() for name, value in model.state_dict().items()}
    configs = {"generator": to_dict(generator.config), "tokenizer": to_dict(tokenizer.config)}
    return fingerprint(tensors, {**configs, "class_names": list(generator.class_names)})
