"""`alitok eval generation`: how much samples look like real images, by the numbers that papers print.

Enters: a model, or samples in files, and a reference. Leaves: `evaluation.json` and `report.html`, see
`alitok.apps.evaluate.job`. A model's images go from the sampler into the feature network and are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from alitok.apps.evaluate.generation_report import SHOWN, GenerationResult, SweepPoint, write_generation
from alitok.apps.evaluate.job import (
    FeaturesName,
    Work,
    begin_images,
    discard_tree,
    features_of_images,
    numbers,
    open_extractor,
    require_evaluation,
    require_place,
    write_features,
)
from alitok.apps.evaluate.references import Reference, of_splits, open_reference, require_large
from alitok.apps.evaluate.samples import Evaluated, ModelImages, StoredImages, folder_images, npz_images
from alitok.core.device import DeviceName
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.hub import is_hub_name
from alitok.core.system import stoppable
from alitok.data.split import Splits
from alitok.metrics.set_distance import Compared, compare, gather
from alitok.run.classifier_features import Judge
from alitok.run.originals import open_images_of, tell_left_out, verify
from alitok.sampling.job import SamplingJob, fitting_batch, load_pipeline
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.settings import EnginePrecision, SamplingOverrides

PER_CLASS = 50
_SWEEP_COUNT = 5000  # images of each setting that is tried
_AROUND = (0.5, 0.75, 1.0, 1.25, 1.5)  # times the model's own value
_TRIED = 2.0  # the scale around which a model is tried that has none of its own
_RESERVE = 3 << 30  # bytes for the feature network and the statistics
SWEPT = {"scale": "guidance_scale", "power": "guidance_power"}


@dataclass(frozen=True)
class GenerationOptions:
    """What the user asked for; see `alitok eval generation --help`.

    Attributes:
        judged: a saved pair, a source of images, or an npz file.
        sampling: settings that replace the model's own.
        sweep: values to try by the name of the setting; empty values mean some around the model's own.
    """

    judged: str
    out: Path
    reference: str | None = None
    data: str | None = None
    data_seed: int = 0
    features: FeaturesName = "inception"
    inception_weights: Path | None = None
    num: int | None = None
    per_class: int | None = None
    classes: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int | None = None
    precision: EnginePrecision = "fp32"
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    sweep: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    sweep_num: int | None = None
    device: DeviceName = "auto"
    fresh: bool = False
    command: str = ""


def run_eval_generation(options: GenerationOptions) -> dict[str, float]:
    """Judge the images; every process of a run calls this.

    Returns:
        The numbers by name, on every process.

    Raises:
        AlitokError: images, reference, data or weights cannot be used, or do not go together.
    """
    if options.reference is None and options.data is None:
        raise AlitokError("There is nothing to compare with; give --reference, or --data for its training images.")
    require_evaluation()
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        world.on_rank0(lambda: require_place(options.out))
        judged = _open(options, world, console)
        splits = None if options.data is None else _usable_images(options, judged.size, world, console)
        extractor = open_extractor(options.features, options.inception_weights, splits, world, console)
        work = Work(extractor, world, console, options.out, options.fresh)
        points: list[SweepPoint] = []
        if options.sweep:
            if not isinstance(judged, ModelImages):
                raise AlitokError("--sweep draws anew with each setting, so it needs a model, not images.")
            if options.fresh:
                world.on_rank0(lambda: discard_tree(options.out))
            reference = _reference(options, work, judged, splits)
            points = _sweep(options, work, judged, reference)
            judged = _with_sampling(judged, min(points, key=lambda point: point.distance).settings)
            files = begin_images(work, judged, work.root)
        else:
            files = begin_images(work, judged, work.root)  # first: what is there already may be of another job
            reference = _reference(options, work, judged, splits)
        missing = world.on_rank0(files.missing)
        write_features(work, files, missing, judged.draw(missing, world), "features of the samples", SHOWN)
        seen = gather(files, world, to_judge=_classes_of_judge(work, judged))

        def conclude() -> dict[str, float]:
            found = compare(seen, reference.target, device=world.device)
            return write_generation(
                GenerationResult(options.command, judged, reference, files, found, points, splits, options.data), work
            )

        return world.on_rank0(conclude)


def _open(options: GenerationOptions, world: World, console: Console) -> Evaluated:
    """What is judged: an npz file by its ending, a saved pair by its `pipeline.json`, else images.

    Raises:
        AlitokError: it cannot be used, or options go with a model alone.
    """
    path = Path(options.judged).expanduser()
    archive = path.suffix.lower() == ".npz"
    if (path / "pipeline.json").is_file() or (not archive and not path.exists() and is_hub_name(options.judged)):
        pipeline = load_pipeline(options.judged, world, options.device, options.precision)
        plan = _plan(pipeline, options)
        widest = plan
        if "scale" in options.sweep:  # some of it is guided, which takes two rows an image
            widest = replace(plan, sampling=replace(plan.sampling, guidance_scale=2.0))
        batch_size = fitting_batch(pipeline, widest, world, options.batch_size, reserve=_RESERVE)
        return ModelImages(pipeline, plan, batch_size, options.judged)
    drawn = (options.num, options.per_class, options.batch_size, *options.classes, *options.sampling.given().values())
    if any(value is not None for value in drawn):
        raise AlitokError(
            f"{options.judged} is no saved model, and finished images are judged as they are: leave out the number, "
            "the classes and the settings of sampling, or give a model."
        )
    return npz_images(path) if archive else folder_images(options.judged, console)


def _usable_images(options: GenerationOptions, size: int, world: World, console: Console) -> Splits:
    """The data without its broken images; all are read where a classifier learns them or they are the reference."""
    assert options.data is not None
    splits = open_images_of(options.data, size, options.data_seed, console)
    if options.features != "classifier" and options.reference is not None:
        return splits
    broken = verify(splits, "all" if options.features == "classifier" else "train", world, console)
    tell_left_out(broken, console)
    return splits.without({key for key, _ in broken})


def _plan(pipeline: Pipeline, options: GenerationOptions) -> SamplingJob:
    """Fifty images of each class unless another number is asked for."""
    per_class = PER_CLASS if options.num is None and options.per_class is None else options.per_class
    return SamplingJob.of(
        pipeline,
        classes=options.classes,
        num=options.num,
        per_class=per_class,
        seed=options.seed,
        sampling=options.sampling,
    )


def _reference(options: GenerationOptions, work: Work, judged: Evaluated, splits: Splits | None) -> Reference:
    if options.reference is not None:
        dataset = None if splits is None else splits.contents
        return open_reference(options.reference, "generation", work, judged.size, dataset)
    assert splits is not None, "checked before"
    assert options.data is not None
    require_large(options.data, judged.size)
    return of_splits(options.data, splits, "train", work)


def _classes_of_judge(work: Work, judged: Evaluated) -> np.ndarray | None:
    """The judge's class of each of the judged images' classes, -1 where it has none; None where nothing is known.

    Classes of finished samples without names are those of the judge by number.
    """
    if not isinstance(work.extractor, Judge):
        return None
    count = len(work.extractor.classes)
    if isinstance(judged, StoredImages) and judged.labels is not None and not judged.classes:
        return np.arange(count) if 0 <= judged.labels.min() <= judged.labels.max() < count else None
    if not judged.classes:
        return None
    places = {name: number for number, name in enumerate(work.extractor.classes)}
    found = np.array([places.get(name, -1) for name in judged.classes])
    return found if (found >= 0).any() else None


def _with_sampling(judged: ModelImages, settings: Mapping[str, Any], count: int | None = None) -> ModelImages:
    """The same model with other guidance, and another number of images."""
    plan = judged.plan
    plan = replace(plan, sampling=replace(plan.sampling, **settings), count=count or plan.count)
    return ModelImages(judged.pipeline, plan, judged.batch_size, judged.name)


def _sweep(options: GenerationOptions, work: Work, judged: ModelImages, reference: Reference) -> list[SweepPoint]:
    """Judge a smaller number of images with each combination of the values to try."""
    if "power" in options.sweep and "scale" not in options.sweep and not judged.plan.sampling.guided:
        raise AlitokError("Without guidance its power changes nothing; sweep the scale too, or give --guidance-scale.")
    combinations: list[dict[str, float]] = [{}]
    for name, values in options.sweep.items():
        setting = SWEPT[name]
        own = getattr(judged.plan.sampling, setting)
        if setting == "guidance_scale" and not judged.plan.sampling.guided:
            own = _TRIED  # about the scale of no guidance there is nothing to try
        tried = values or tuple(round(own * times, 4) for times in _AROUND)
        combinations = [{**chosen, setting: value} for chosen in combinations for value in tried]
    count = min(options.sweep_num or _SWEEP_COUNT, judged.plan.count)
    points = []
    for number, settings in enumerate(combinations, start=1):
        tried_model = _with_sampling(judged, settings, count)
        told = ", ".join(f"{name} {value:g}" for name, value in settings.items())
        place = work.root / "sweep" / "_".join(f"{name}-{value!r}" for name, value in settings.items())
        title = f"setting {number} of {len(combinations)}: {told}"
        files = features_of_images(work, tried_model, place, title)
        seen = gather(files, work.world, most_kept=0, to_judge=_classes_of_judge(work, tried_model))
        found = work.world.on_rank0(lambda: compare(seen, reference.target, device=work.world.device, interval=False))  # noqa: B023 (called at once)
        points.append(_point(settings, count, found, work))
    return points


def _point(settings: dict[str, float], count: int, found: Compared, work: Work) -> SweepPoint:
    named = numbers(found, work.extractor, "generation")
    quality = named.get("inception_score", named.get("accuracy"))
    return SweepPoint(settings, count, found.frechet.value, quality)
