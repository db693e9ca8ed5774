"""What both evaluations report: the table of metrics, and `evaluation.json`, `report.html` and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from alitok.apps.evaluate.job import Work
from alitok.apps.evaluate.options import EvaluationKind
from alitok.core.console import reporter
from alitok.core.files import finite, write_json
from alitok.metrics.features import FeatureExtractor
from alitok.metrics.set_distance import Comparison
from alitok.recipes.published import Published
from alitok.report.html import write_html
from alitok.report.model import Cell, Facts, Report, Row, Section, Table
from alitok.report.terminal import print_table
from alitok.run.classifier import ClassifierFeatures
from alitok.run.report import environment

PUBLISHED_COUNT = 50_000  # images of published metrics
NOTABLE_BIAS = 0.05  # fraction of the distance from which on a reader is warned


class _Metric(NamedTuple):
    label: str
    form: str
    meaning: str


_METRICS = {
    "gfid": _Metric("gFID", ".3f", "Frechet distance to the reference in Inception features; lower is better"),
    "rfid": _Metric("rFID", ".3f", "Frechet distance of reconstructions from the originals; lower is better"),
    "frechet_distance": _Metric("", ".4g", "distance of the two sets in these features, not FID; lower is better"),
    "sfid": _Metric("sFID", ".3f", "FID in spatial features; lower is better"),
    "spatial_frechet_distance": _Metric("spatial Frechet distance", ".4g", "in spatial features; lower is better"),
    "inception_score": _Metric("Inception Score", ".2f", "confident and varied class predictions; higher is better"),
    "accuracy": _Metric("accuracy", ".1%", "fraction of images classified as their class; higher is better"),
    "original_accuracy": _Metric("accuracy, originals", ".1%", "the same of the originals: about the upper limit"),
    "precision": _Metric("precision", ".3f", "fraction of samples on the manifold of real images; higher is better"),
    "recall": _Metric("recall", ".3f", "fraction of real images on the manifold of samples; higher is better"),
    "density": _Metric("density", ".3f", "density of real images around samples; about 1 if both are alike"),
    "coverage": _Metric("coverage", ".3f", "fraction of real images with a sample nearby; higher is better"),
    "kid": _Metric("KID", ".5f", "kernel distance, unbiased for few images; lower is better"),
    "kernel_distance": _Metric("kernel distance", ".4g", "unbiased for few images, not KID; lower is better"),
    "psnr": _Metric("PSNR", ".2f", "dB, mean over images; higher is better"),
    "ssim": _Metric("SSIM", ".4f", "structural similarity, mean over images; higher is better"),
    "lpips": _Metric("LPIPS", ".4f", "distance in VGG features, mean over images; lower is better"),
    "codebook_use": _Metric("codebook use", ".1%", "fraction of the codebook that these images use"),
    "codebook_perplexity": _Metric("codebook perplexity", ",.1f", "effective number of codes in use"),
    "count": _Metric("images", ",.0f", "number of images"),
}
_WITH_INTERVAL = ("gfid", "rfid", "frechet_distance")


def metrics_of(compared: Comparison, extractor: FeatureExtractor, kind: EvaluationKind) -> dict[str, float]:
    """The metrics by name. Only distances in the official Inception's features have the names of published ones."""
    official = extractor.distance == "FID"
    found = {f"{kind[0]}fid" if official else "frechet_distance": compared.frechet.value}
    if compared.spatial is not None:
        found["sfid" if official else "spatial_frechet_distance"] = compared.spatial
    if official:
        found["inception_score"] = compared.score.mean
    if compared.accuracy is not None:
        found["accuracy"] = compared.accuracy
    if compared.manifold is not None:
        found |= compared.manifold._asdict()
    if compared.kernel is not None:
        found["kid" if official else "kernel_distance"] = compared.kernel.mean
    return found


def interval(compared: Comparison) -> tuple[float, float] | None:
    """The Frechet distance's 95 % interval; None if there were too few images."""
    low, high = compared.frechet.low, compared.frechet.high
    return None if math.isnan(low) else (low, high)


def not_fid(extractor: FeatureExtractor) -> str:
    """The warning about features other than the official Inception's."""
    return f"Features of {extractor.name}: these distances are not FID and compare only within the same features."


def metrics_table(
    columns: Mapping[str, Mapping[str, float]], intervals: Mapping[str, tuple[float, float] | None], distance: str
) -> Table:
    """A row for each metric of any column, in the order above, unknown ones last.

    Metrics and intervals are by the column's name; `distance` is the extractor's name of the Frechet distance.
    """
    names = {name for metrics in columns.values() for name in metrics}
    rows = []
    for name in [*(name for name in _METRICS if name in names), *sorted(names - _METRICS.keys())]:
        label, form, meaning = _METRICS.get(name, _Metric(name.replace("_", " "), ".4g", ""))
        cells = []
        for column, metrics in columns.items():
            ends = intervals[column] if name in _WITH_INTERVAL else None
            below = f"{ends[0]:{form}} to {ends[1]:{form}}" if ends else ""
            cells.append(Cell(format(metrics[name], form) if name in metrics else "", below))
        rows.append(Row(label or distance, tuple(cells), name, meaning))
    footnote = "Small: 95 % confidence interval of the distance over images." if any(intervals.values()) else ""
    return Table(tuple(columns), tuple(rows), footnote=footnote)


def published_section(published: Published | None) -> Section:
    """Published results; a section without blocks if none apply."""
    if published is None:
        return Section("Published results", ())
    rows = tuple(Row(row.name, row.values, strong=row.measured) for row in published.rows)
    return Section(published.heading, (Table(published.columns, rows, "model"),), published.comparability)


def protocol_of(facts: Mapping[str, Any], work: Work, command: str) -> dict[str, Any]:
    """`facts`, the feature network and the environment: all that the metrics depend on."""
    extractor = work.extractor
    found = {**facts, "features": extractor.name, "feature weights": extractor.weights}
    if isinstance(extractor, ClassifierFeatures):
        found["classifier val accuracy"] = extractor.val_accuracy
    return {**found, "processes": work.world.size, "command": command, **environment(work.world.device)}


def write_evaluation(work: Work, report: Report, table: Table, results: Mapping[str, Any]) -> None:
    """Write both files and print metrics and warnings, on rank 0 only.

    `report` lacks its first and last sections, metrics and protocol; `results` has `protocol` and `reference`.
    """
    page, results_file = work.root / "report.html", work.root / "evaluation.json"
    facts = results["protocol"] | {f"reference: {name}": value for name, value in results["reference"].items()}
    metrics, protocol = Section("Metrics", (table,)), Section("Protocol", (Facts(facts),))
    write_html(page, replace(report, sections=(metrics, *report.sections, protocol)))
    features = {"features": work.extractor.name, "distance": work.extractor.distance}
    write_json(results_file, finite({**features, **results, "warnings": list(report.warnings)}))
    print_table(work.console, table)
    say = reporter(work.console)
    for warning in report.warnings:
        say(f"Warning: {warning}")
    say(f"Written: {results_file}, {page}")
