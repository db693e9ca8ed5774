"""`alitok eval generation`: how much samples look like real images, by the published metrics.

A model's images go from the sampler into the feature network and are not saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from alitok.apps.evaluate.generation_report import SHOWN, GenerationResult, SweepPoint, write_generation
from alitok.apps.evaluate.images import ImageSet, ModelImages, StoredImages, folder_images, npz_images, usable_images
from alitok.apps.evaluate.job import (
    Work,
    begin_images,
    discard_tree,
    job_dir,
    open_extractor,
    write_features,
)
from alitok.apps.evaluate.options import GenerationOptions
from alitok.apps.evaluate.reference import Reference, of_splits, open_reference, require_large
from alitok.apps.evaluate.report import metrics_of
from alitok.core.choices import SplitName
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.hub import is_hub_name
from alitok.core.system import require_libraries, stoppable
from alitok.data.split import Splits
from alitok.metrics.set_distance import compare, gather
from alitok.run.classifier import ClassifierFeatures
from alitok.run.images import open_images
from alitok.sampling.job import SamplingJob, fitting_batch, load_pipeline

_PER_CLASS = 50
_SWEEP_COUNT = 5000  # samples of each combination
_AROUND = (0.5, 0.75, 1.0, 1.25, 1.5)  # times the model's own value
_SCALE = 2.0  # around which a model without guidance is swept
_RESERVE = 3 << 30  # bytes for the feature network and the statistics


def run_eval_generation(samples: str, options: GenerationOptions, command: str = "") -> dict[str, float]:
    """Metrics by name of a saved model, a source of images, or an npz file; every process calls this, and gets them.

    AlitokError where images, reference, data or weights cannot be used, or do not go together.
    """
    if options.reference is None and options.data is None:
        raise AlitokError("There is nothing to compare with; give --reference, or --data for its training images.")
    sweep = options.swept()
    require_libraries("An evaluation", "eval", "scipy", "jinja2", "matplotlib")  # before hours of work
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        world.on_rank0(job_dir(options.out).read)
        images = _open(samples, options, world, console)
        splits = _splits(options, images.size, world, console)
        extractor = open_extractor(options.features, options.inception_weights, splits, world, console)
        work = Work(extractor, world, console, options.out, options.fresh)
        points: list[SweepPoint] = []
        if sweep:
            if not isinstance(images, ModelImages):
                raise AlitokError("--sweep generates images with each combination, so it needs a model, not images.")
            if options.fresh:
                world.on_rank0(lambda: discard_tree(options.out))
            reference = _reference(options, work, images, splits)
            points = _sweep(sweep, options, work, images, reference)
            images = _with_sampling(images, min(points, key=lambda point: point.distance).settings)
            files = begin_images(work, images, work.root)
        else:
            files = begin_images(work, images, work.root)  # first: the directory may hold another job
            reference = _reference(options, work, images, splits)
        write_features(work, files, images, "features of the samples", SHOWN)
        found = gather(files, world, network_classes=_network_classes(work, images))

        def conclude() -> dict[str, float]:
            compared = compare(found, reference.target, device=world.device)
            result = GenerationResult(command, images, reference, files, compared, points, splits, options.data)
            return write_generation(result, work)

        return world.on_rank0(conclude)


def _open(samples: str, options: GenerationOptions, world: World, console: Console) -> ImageSet:
    """A saved model, recognized by its `pipeline.json`, else images."""
    path = Path(samples).expanduser()
    archive = path.suffix.lower() == ".npz"
    if (path / "pipeline.json").is_file() or (not archive and not path.exists() and is_hub_name(samples)):
        pipeline = load_pipeline(samples, world, options.device, options.precision)
        per_class = _PER_CLASS if options.num is None and options.per_class is None else options.per_class
        job = widest = SamplingJob.of(
            pipeline,
            classes=options.classes,
            num=options.num,
            per_class=per_class,
            seed=options.seed,
            sampling=options.sampling,
        )
        if "scale" in options.swept():  # some combinations are guided, which takes two rows per image
            widest = replace(job, sampling=replace(job.sampling, guidance_scale=2.0))
        batch_size = fitting_batch(pipeline, widest, world, options.batch_size, reserve=_RESERVE)
        return ModelImages(pipeline, job, batch_size, samples)
    given = (options.num, options.per_class, options.batch_size, *options.classes, *options.sampling.given().values())
    if any(value is not None for value in given):
        raise AlitokError(
            f"{samples} is not a saved model, and finished images are evaluated as they are; leave out the options of "
            "sampling, or give a model."
        )
    return npz_images(path) if archive else folder_images(samples, console)


def _splits(options: GenerationOptions, size: int, world: World, console: Console) -> Splits | None:
    """The data; broken images are left out if a classifier is trained on it or it is the reference."""
    if options.data is None:
        return None
    if options.features != "classifier" and options.reference is not None:
        return open_images(options.data, size, options.data_seed, console)
    split: SplitName = "all" if options.features == "classifier" else "train"
    return usable_images(options.data, size, options.data_seed, split, world, console)[0]


def _reference(options: GenerationOptions, work: Work, images: ImageSet, splits: Splits | None) -> Reference:
    if options.reference is not None:
        dataset = None if splits is None else splits.contents
        return open_reference(options.reference, "generation", work, images.size, dataset)
    assert splits is not None
    assert options.data is not None
    require_large(options.data, images.size)
    return of_splits(options.data, splits, "train", work)


def _network_classes(work: Work, images: ImageSet) -> np.ndarray | None:
    """The classifier's class of each class of the images, -1 if it has none; None if nothing is known.

    Labels of finished samples without class names are the classifier's class numbers.
    """
    if not isinstance(work.extractor, ClassifierFeatures):
        return None
    count = len(work.extractor.classes)
    if isinstance(images, StoredImages) and images.labels is not None and not images.classes:
        return np.arange(count) if 0 <= images.labels.min() <= images.labels.max() < count else None
    if not images.classes:
        return None
    places = {name: number for number, name in enumerate(work.extractor.classes)}
    found = np.array([places.get(name, -1) for name in images.classes])
    return found if (found >= 0).any() else None


def _with_sampling(images: ModelImages, settings: Mapping[str, Any], count: int | None = None) -> ModelImages:
    job = images.job
    job = replace(job, sampling=replace(job.sampling, **settings), count=count or job.count)
    return ModelImages(images.pipeline, job, images.batch_size, images.name)


def _combinations(sweep: Mapping[str, tuple[float, ...]], images: ModelImages) -> list[dict[str, float]]:
    """Fields of `SamplingConfig`."""
    own = images.job.sampling
    if "power" in sweep and "scale" not in sweep and not own.guided:
        raise AlitokError("Without guidance its power has no effect; sweep the scale too, or give --guidance-scale.")
    found: list[dict[str, float]] = [{}]
    for name, values in sweep.items():
        setting = f"guidance_{name}"
        center = _SCALE if setting == "guidance_scale" and not own.guided else getattr(own, setting)
        tried = values or tuple(round(center * times, 4) for times in _AROUND)
        found = [{**chosen, setting: value} for chosen in found for value in tried]
    return found


def _sweep(
    sweep: Mapping[str, tuple[float, ...]],
    options: GenerationOptions,
    work: Work,
    images: ModelImages,
    reference: Reference,
) -> list[SweepPoint]:
    combinations = _combinations(sweep, images)
    count = min(options.sweep_num or _SWEEP_COUNT, images.job.count)
    points = []
    for number, settings in enumerate(combinations, start=1):
        some = _with_sampling(images, settings, count)
        named = ", ".join(f"{name} {value:g}" for name, value in settings.items())
        root = work.root / "sweep" / "_".join(f"{name}-{value!r}" for name, value in settings.items())
        title = f"combination {number} of {len(combinations)}: {named}"
        files = write_features(work, begin_images(work, some, root), some, title)
        found = gather(files, work.world, max_features=0, network_classes=_network_classes(work, some))

        def point() -> SweepPoint:
            compared = compare(found, reference.target, device=work.world.device, interval=False)  # noqa: B023 (called at once)
            metrics = metrics_of(compared, work.extractor, "generation")
            quality = metrics.get("inception_score", metrics.get("accuracy"))
            return SweepPoint(settings, count, compared.frechet.value, quality)  # noqa: B023 (called at once)

        points.append(work.world.on_rank0(point))
    return points
