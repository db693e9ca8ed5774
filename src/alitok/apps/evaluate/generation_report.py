"""The report of an evaluation of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.apps.evaluate.images import ImageSet, ModelImages
from alitok.apps.evaluate.job import Work
from alitok.apps.evaluate.reference import Reference
from alitok.apps.evaluate.report import (
    NOTABLE_BIAS,
    PUBLISHED_COUNT,
    interval,
    metrics_of,
    metrics_table,
    not_fid,
    protocol_of,
    published_section,
    write_evaluation,
)
from alitok.core.console import counted
from alitok.data.decode import BrokenImageError, in_threads, silence_pillow
from alitok.data.sources.decoded import ImageSource
from alitok.data.split import Splits
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.nearest import nearest_distance
from alitok.metrics.set_distance import Comparison, saved_images
from alitok.recipes.models import IMAGENET_CLASSES
from alitok.recipes.published import Generated, Published, applies, generation_table
from alitok.report.images import nearest_neighbours, samples_by_class
from alitok.report.model import Curve, Curves, Report, Section
from alitok.run.classifier import ClassifierFeatures

SHOWN = 48  # the first images of a job, saved for the report
_NEIGHBOURS = 10
_SEARCHED = 10_000  # training images among which neighbors are searched
_BLOCK = 256  # of them in memory at a time


@dataclass(frozen=True)
class SweepPoint:
    """One combination of a sweep: fields of `SamplingConfig`, number of samples, and squared Frechet distance.

    `quality` is the Inception Score, or a classifier's accuracy; None without either.
    """

    settings: dict[str, float]
    count: int
    distance: float
    quality: float | None


@dataclass(frozen=True)
class GenerationResult:
    """What an evaluation of samples found; `sweep` are the combinations tried before, `data` is as the user named it.

    Neighbors are searched among the training images of `splits`; None if they are unknown.
    """

    command: str
    evaluated: ImageSet
    reference: Reference
    files: FeatureFiles
    compared: Comparison
    sweep: list[SweepPoint]
    splits: Splits | None
    data: str | None


def write_generation(result: GenerationResult, work: Work) -> dict[str, float]:
    """Write the report, on rank 0 only, and return the metrics by name."""
    metrics = metrics_of(result.compared, work.extractor, "generation")
    ends = interval(result.compared)
    table = metrics_table({"value": metrics}, {"value": ends}, work.extractor.distance)
    images, labels = saved_images(result.files)
    about = result.reference.about
    where = about.get("path", about.get("data"))
    reference = f"the statistics in {where}" if about.get("adm") else f"{about['images']:,} images of {where}"
    classes = result.evaluated.classes
    by_class = {classes[label]: images[labels == label] for label in np.unique(labels).tolist()} if classes else {}
    report = Report(
        title=f"alitok: {result.evaluated.name}",
        summary=f"{result.evaluated.count:,} samples against {reference}.",
        command=result.command,
        warnings=tuple(_warnings(result, work)),
        sections=(
            published_section(_published(metrics, result, work)),
            Section("Sweep", _curves(result.sweep, work)),
            samples_by_class(by_class or {"all": images}, f"The first {len(images)} of the job, not selected."),
            *([] if result.splits is None else [_neighbours(images, labels, result)]),
        ),
    )
    results = {
        "kind": "generation",
        "metrics": metrics,
        "interval": ends,
        "bias": result.compared.bias,
        "protocol": _protocol(result, work),
        "reference": about,
        "sweep": [vars(point) for point in result.sweep],
    }
    write_evaluation(work, report, table, results)
    return metrics


def _warnings(result: GenerationResult, work: Work) -> list[str]:
    count, compared, target = result.evaluated.count, result.compared, result.reference.target
    official, features = work.extractor.distance == "FID", len(target.pool.mean)
    found = list(result.evaluated.notes)
    if not official:
        found.append(not_fid(work.extractor))
    elif count != PUBLISHED_COUNT:
        found.append(f"Published metrics use {PUBLISHED_COUNT:,} samples, 50 of each class; these use {count:,}.")
    if compared.bias is None:
        found.append(f"Too few samples ({count:,}) to estimate the bias and the interval of the distance.")
    elif compared.bias > NOTABLE_BIAS * compared.frechet.value:
        found.append(
            f"With {count:,} samples the distance is too large by about "
            f"{min(compared.bias, compared.frechet.value):.3g} (estimated from halves of them); compare it only at the "
            "same number of samples."
        )
    images = result.reference.about.get("images")
    if images is not None and images < 2 * features:
        found.append(
            f"The reference has {images:,} images, few for {features:,} features; this too makes the distance larger, "
            "which the interval does not include."
        )
    if isinstance(work.extractor, ClassifierFeatures) and compared.accuracy is None:
        found.append("Accuracy skipped: the samples' classes are not those of the classifier.")
    if compared.manifold is None:
        why = "the reference has no features" if target.features is None else "there are too few samples"
        found.append(f"Precision, recall, density and coverage skipped: {why}.")
    if official and compared.spatial is None:
        found.append("sFID skipped: the reference has no statistics of spatial features (mu_s, sigma_s).")
    return found


def _protocol(result: GenerationResult, work: Work) -> dict[str, Any]:
    facts: dict[str, Any] = {"samples": result.evaluated.name, **result.evaluated.settings}
    if isinstance(result.evaluated, ModelImages):
        facts["per class"] = result.evaluated.count / len(result.evaluated.job.classes)
    if result.splits is not None:
        facts |= {"data": result.data, "data contents": result.splits.contents}
    return protocol_of(facts, work, result.command)


def _published(metrics: dict[str, float], result: GenerationResult, work: Work) -> Published | None:
    evaluated, adm = result.evaluated, result.reference.about.get("adm", False)
    classes = IMAGENET_CLASSES if adm else len(evaluated.classes)
    if not applies(classes=classes, image_size=evaluated.size, network=work.extractor.name):
        return None
    name, parameters, guided = "this evaluation, guidance unknown", "", True
    differences = [] if evaluated.count == PUBLISHED_COUNT else [f"{evaluated.count:,} samples"]
    if isinstance(evaluated, ModelImages):
        count = sum(parameter.numel() for parameter in evaluated.pipeline.generator.parameters())
        name, parameters, guided = "this evaluation", f"{count / 1e6:.0f}M", evaluated.job.sampling.guided
        if len(evaluated.job.classes) != classes:
            differences.append(counted(len(evaluated.job.classes), "class", "classes"))
        if evaluated.pipeline.precision != "fp32":
            differences.append(f"codes sampled in {evaluated.pipeline.precision}")
    if not adm:
        differences.append("another reference than ADM's")
    gfid, score = metrics["gfid"], metrics["inception_score"]
    measured = Generated(name, parameters, None, gfid, score) if guided else Generated(name, parameters, gfid)
    return generation_table(measured, tuple(differences))


def _neighbours(images: np.ndarray, labels: np.ndarray, result: GenerationResult) -> Section:
    """For some samples the nearest training images, of the same classes where there are many."""
    assert result.splits is not None
    source, samples = result.splits.train, images[:_NEIGHBOURS]
    rows = _searched(source, labels[:_NEIGHBOURS], result.evaluated.classes)
    best, nearest = np.full(len(samples), math.inf), np.zeros_like(samples)

    def read(row: int) -> np.ndarray | None:
        try:
            return source.read(row, None)
        except BrokenImageError:
            return None

    for start in range(0, len(rows), _BLOCK):
        with silence_pillow():
            found = list(in_threads(read, rows[start : start + _BLOCK].tolist()))
        candidates = np.stack([candidate for candidate in found if candidate is not None] or [nearest[0]])
        distances, places = nearest_distance(samples, candidates)
        better = distances < best
        best[better], nearest[better] = distances[better], candidates[places[better]]
    return nearest_neighbours(samples, nearest, best)


def _searched(source: ImageSource, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Rows of the training images to search: all, or those of the samples' classes, or a random subset of them."""
    rows = np.arange(len(source))
    if len(rows) > _SEARCHED and classes:
        wanted = [number for number, name in enumerate(source.classes) if name in {classes[each] for each in labels}]
        rows = np.flatnonzero(np.isin(source.labels, wanted)) if wanted else rows
    if len(rows) > _SEARCHED:
        rows = np.sort(np.random.default_rng(0).choice(rows, _SEARCHED, replace=False))
    return rows


def _curves(sweep: list[SweepPoint], work: Work) -> tuple[Curves, ...]:
    """The distance over the score: a line for each power, a point for each scale."""
    if not sweep:
        return ()
    scored = all(point.quality is not None for point in sweep)
    official = work.extractor.distance == "FID"
    lines: dict[str, tuple[list[float], list[float]]] = {}
    labels: dict[str, list[str]] = {}
    for point in sweep:
        scale, power = point.settings.get("guidance_scale"), point.settings.get("guidance_power")
        name = "guidance" if power is None else f"power {power:g}"
        across = point.quality if point.quality is not None else math.nan if scale is None else scale
        x, y = lines.setdefault(name, ([], []))
        x.append(across)
        y.append(point.distance)
        labels.setdefault(name, []).append("" if scale is None else f"{scale:g}")
    curve = Curve(
        f"Sweep, {sweep[0].count:,} samples each",
        ("Inception Score" if official else "accuracy") if scored else "guidance scale",
        "FID" if official else work.extractor.distance,
        lines,
        markers=True,
        labels=labels,
        label_name="guidance scale",
    )
    return (Curves((curve,)),)
