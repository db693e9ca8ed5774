"""What an evaluation of samples leaves: `evaluation.json` for programs and `report.html` for people.

Enters: what was compared, and what it depends on. Leaves: the two files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from alitok.apps.evaluate.job import NOTABLE, PUBLISHED_COUNT, Work, interval, no_fid, numbers
from alitok.apps.evaluate.page import EvaluationReport, Published, write_evaluation
from alitok.apps.evaluate.references import Reference
from alitok.apps.evaluate.rows import metric_rows, tell
from alitok.apps.evaluate.samples import Evaluated, ModelImages
from alitok.core.console import counted
from alitok.core.files import finite, write_json
from alitok.data.decode import BrokenImageError, in_threads, silence_pillow
from alitok.data.sources.decoded import ImageSource
from alitok.data.split import Splits
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.nearest import nearest_distance
from alitok.metrics.set_distance import Compared, shown_images
from alitok.recipes.models import IMAGENET_CLASSES
from alitok.recipes.published import Generated, applies, generation_table
from alitok.report.curves import Curve
from alitok.report.facts import protocol_rows
from alitok.report.sheets import ClassSamples, Neighbours
from alitok.run.classifier_features import Judge
from alitok.run.summary import environment

SHOWN = 48  # the first images of a job, kept for the report
_NEIGHBOURS = 10
_SEARCHED = 10_000  # training images that neighbours are looked for among
_BLOCK = 256  # of them in memory at a time


@dataclass(frozen=True)
class SweepPoint:
    """One setting that was tried.

    Attributes:
        settings: fields of `SamplingConfig`.
        count: images it was judged by.
        distance: squared Frechet distance.
        quality: Inception Score, or with a classifier its accuracy; None where there is neither.
    """

    settings: dict[str, float]
    count: int
    distance: float
    quality: float | None


@dataclass(frozen=True)
class GenerationResult:
    """All that the two files are made of.

    Attributes:
        command: as it was typed.
        judged: the images.
        reference: what they were compared with.
        files: their features, and some of the images.
        compared: what was found.
        sweep: the settings that were tried before.
        splits: the data that training images are looked for in; None where they are not known.
        data: what the user wrote for them.
    """

    command: str
    judged: Evaluated
    reference: Reference
    files: FeatureFiles
    compared: Compared
    sweep: list[SweepPoint]
    splits: Splits | None
    data: str | None


def write_generation(result: GenerationResult, work: Work) -> dict[str, float]:
    """Write both files; one process does it.

    Returns:
        The numbers by name.
    """
    found = numbers(result.compared, work.extractor, "generation")
    warnings = _warnings(result, work)
    protocol = _protocol(result, work)
    images, labels = shown_images(result.files)
    report = EvaluationReport(
        title=f"alitok: {result.judged.name}",
        summary=f"{result.judged.count:,} samples against {_named(result.reference)}.",
        command=result.command,
        warnings=tuple(warnings),
        metrics=metric_rows({"value": found}, {"value": interval(result.compared)}, work.extractor.distance),
        published=_published(found, result, work),
        samples=_by_class(images, labels, result.judged.classes),
        samples_note=f"The first {len(images)} of the job: chosen by their numbers, not by how they look.",
        neighbours=None if result.splits is None else _neighbours(images, labels, result),
        curves=_curves(result.sweep, work),
        protocol=protocol_rows(protocol, result.reference.about),
    )
    write_evaluation(work.root / "report.html", report)
    write_json(
        work.root / "evaluation.json",
        finite(
            {
                "kind": "generation",
                "features": work.extractor.name,
                "distance": work.extractor.distance,
                "metrics": found,
                "interval": interval(result.compared),
                "bias": result.compared.bias,
                "warnings": warnings,
                "protocol": protocol,
                "reference": result.reference.about,
                "sweep": [vars(point) for point in result.sweep],
            }
        ),
    )
    tell(work, report)
    return found


def _warnings(result: GenerationResult, work: Work) -> list[str]:
    """What a reader must know before the numbers."""
    count, compared, official = result.judged.count, result.compared, work.extractor.distance == "FID"
    said = list(result.judged.notes)
    if not official:
        said.append(no_fid(work.extractor))
    elif count != PUBLISHED_COUNT:
        said.append(f"Published numbers are of {PUBLISHED_COUNT:,} samples, 50 of each class; these are of {count:,}.")
    said += _bias(result)
    if isinstance(work.extractor, Judge) and compared.accuracy is None:
        said.append("The samples' classes are not those that the classifier knows, so there is no accuracy.")
    if compared.manifold is None:
        why = "holds no images" if result.reference.target.features is None else "or the samples are too few"
        said.append(f"The reference {why}: there are no precision, recall, density and coverage.")
    if official and compared.spatial is None:
        said.append("The reference holds no statistics of spatial features (mu_s, sigma_s), so there is no sFID.")
    return said


def _bias(result: GenerationResult) -> list[str]:
    """How far a distance of few images is too large."""
    count, compared, target = result.judged.count, result.compared, result.reference.target
    features = len(target.pool.mean)
    said = []
    if compared.bias is None:
        said.append(f"{count:,} samples are too few to say how far the distance is from that of many.")
    elif compared.bias > NOTABLE * compared.frechet.value:
        said.append(
            f"A Frechet distance of few images is too large: with {count:,} samples by about "
            f"{min(compared.bias, compared.frechet.value):.3g} (estimated from halves of them). Compare only with "
            "numbers of as many samples."
        )
    images = result.reference.about.get("images")
    if images is not None and images < 2 * features:
        said.append(
            f"The reference is of {images:,} images, few for {features:,} features: that makes the distance larger "
            "too, and no interval tells it."
        )
    return said


def _protocol(result: GenerationResult, work: Work) -> dict[str, Any]:
    """All that the numbers depend on."""
    facts: dict[str, Any] = {"samples": result.judged.name, **result.judged.settings}
    if isinstance(result.judged, ModelImages):
        facts["per class"] = result.judged.count / len(result.judged.plan.classes)
    if result.splits is not None:
        facts |= {"data": result.data, "data contents": result.splits.contents}
    facts |= {"features": work.extractor.name, "feature weights": work.extractor.weights}
    if isinstance(work.extractor, Judge):
        facts["classifier's accuracy on validation images"] = work.extractor.val_accuracy
    return {**facts, "processes": work.world.size, "command": result.command, **environment(work.world.device)}


def _named(reference: Reference) -> str:
    about = reference.about
    where = about.get("path", about.get("data"))
    return f"the statistics in {where}" if about.get("adm") else f"{about['images']:,} images of {where}"


def _published(found: dict[str, float], result: GenerationResult, work: Work) -> Published | None:
    """The table of the papers, where these samples are of their kind."""
    judged, adm = result.judged, result.reference.about.get("adm", False)
    classes = IMAGENET_CLASSES if adm else len(judged.classes)
    if not applies(classes=classes, image_size=judged.size, network=work.extractor.name):
        return None
    name, parameters, guided = "this evaluation, guidance unknown", "", True
    differences = [] if judged.count == PUBLISHED_COUNT else [f"{judged.count:,} samples"]
    if isinstance(judged, ModelImages):
        count = sum(parameter.numel() for parameter in judged.pipeline.generator.parameters())
        name, parameters, guided = "this evaluation", f"{count / 1e6:.0f}M", judged.plan.sampling.guided
        if len(judged.plan.classes) != classes:
            differences.append(counted(len(judged.plan.classes), "class", "classes"))
        if judged.pipeline.precision != "fp32":
            differences.append(f"codes drawn in {judged.pipeline.precision}")
    if not adm:
        differences.append("another reference than ADM's")
    measured = Generated(
        name,
        parameters,
        None if guided else found["gfid"],
        found["gfid"] if guided else None,
        found["inception_score"] if guided else None,
    )
    return generation_table(measured, tuple(differences))


def _by_class(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> list[ClassSamples]:
    if not classes:
        return [ClassSamples("all", images)]
    return [ClassSamples(classes[label], images[labels == label]) for label in np.unique(labels).tolist()]


def _neighbours(images: np.ndarray, labels: np.ndarray, result: GenerationResult) -> Neighbours:
    """For some samples the nearest of the training images, of the same classes where there are many."""
    assert result.splits is not None
    source = result.splits.train
    some = slice(0, _NEIGHBOURS)
    rows = _searched(source, labels[some], result.judged.classes)
    best = np.full(len(images[some]), math.inf)
    nearest = np.zeros_like(images[some])
    for start in range(0, len(rows), _BLOCK):
        with silence_pillow():
            found = list(in_threads(partial(_readable, source), rows[start : start + _BLOCK].tolist()))
        candidates = np.stack([candidate for candidate in found if candidate is not None] or [nearest[0]])
        distances, places = nearest_distance(images[some], candidates)
        better = distances < best
        best[better], nearest[better] = distances[better], candidates[places[better]]
    return Neighbours(images[some], nearest, best)


def _readable(source: ImageSource, row: int) -> np.ndarray | None:
    """One training image; None for a broken one, which is nobody's neighbour."""
    try:
        return source.read(row, None)
    except BrokenImageError:
        return None


def _searched(source: ImageSource, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Rows of the training images that are searched: all, or those of the samples' classes, or some of those."""
    rows = np.arange(len(source))
    if len(rows) > _SEARCHED and classes:
        wanted = [number for number, name in enumerate(source.classes) if name in {classes[each] for each in labels}]
        rows = np.flatnonzero(np.isin(source.labels, wanted)) if wanted else rows
    if len(rows) > _SEARCHED:
        rows = np.sort(np.random.default_rng(0).choice(rows, _SEARCHED, replace=False))
    return rows


def _curves(points: list[SweepPoint], work: Work) -> list[Curve]:
    """The distance against the score of the settings that were tried: a line for each power, a point for each scale."""
    if not points:
        return []
    scored = all(point.quality is not None for point in points)
    official = work.extractor.distance == "FID"
    lines: dict[str, list[SweepPoint]] = {}
    for point in points:
        power = point.settings.get("guidance_power")
        lines.setdefault("guidance" if power is None else f"power {power:g}", []).append(point)
    return [
        Curve(
            f"Settings tried, {points[0].count:,} samples each",
            ("Inception Score" if official else "accuracy") if scored else "guidance scale",
            "FID" if official else work.extractor.distance,
            {name: ([_across(p) for p in line], [p.distance for p in line]) for name, line in lines.items()},
            markers=True,
            labels={name: [_scale(p) for p in line] for name, line in lines.items()},
            label_name="guidance scale",
        )
    ]


def _across(point: SweepPoint) -> float:
    """What stands along the x axis: the score, or without one the scale."""
    return point.settings.get("guidance_scale", math.nan) if point.quality is None else point.quality


def _scale(point: SweepPoint) -> str:
    scale = point.settings.get("guidance_scale")
    return "" if scale is None else f"{scale:g}"
