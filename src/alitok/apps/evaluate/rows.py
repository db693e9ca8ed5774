"""The numbers of an evaluation as rows for people: what each is called, and which direction is better.

Enter: numbers by name, for each column of the report. Leave: `Metric`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from alitok.apps.evaluate.job import Work
from alitok.apps.evaluate.page import EvaluationReport, Metric
from alitok.core.console import reporter


class _Row(NamedTuple):
    label: str
    form: str
    meaning: str


_ROWS = {
    "gfid": _Row(
        "gFID", ".3f", "Frechet distance of samples from the reference in Inception's features; lower is better"
    ),
    "rfid": _Row("rFID", ".3f", "Frechet distance of reconstructions from their images; lower is better"),
    "frechet_distance": _Row("", ".4g", "how far the two sets are apart; lower is better, and it is no FID"),
    "sfid": _Row("sFID", ".3f", "the same in features that keep their places; lower is better"),
    "spatial_frechet_distance": _Row("spatial Frechet distance", ".4g", "in features that keep their places; no sFID"),
    "inception_score": _Row("Inception Score", ".2f", "each sample surely of some class, and all classes come; higher"),
    "accuracy": _Row("accuracy", ".1%", "share that the classifier reads as the class it should be; higher is better"),
    "original_accuracy": _Row("accuracy, images", ".1%", "the same of the images themselves: about the most there is"),
    "precision": _Row("precision", ".3f", "share of samples that lie where real images do; higher is better"),
    "recall": _Row("recall", ".3f", "share of real images that lie where samples do; higher is better"),
    "density": _Row("density", ".3f", "how densely real images lie around samples; about 1 if both are alike"),
    "coverage": _Row("coverage", ".3f", "share of real images with a sample near them; higher is better"),
    "kid": _Row("KID", ".5f", "kernel distance, unbiased for few images; lower is better"),
    "kernel_distance": _Row("kernel distance", ".4g", "unbiased for few images; lower is better, and it is no KID"),
    "psnr": _Row("PSNR", ".2f", "dB, the mean over images; higher is better"),
    "ssim": _Row("SSIM", ".4f", "structural similarity, the mean over images; higher is better"),
    "lpips": _Row("LPIPS", ".4f", "distance in VGG's features, the mean over images; lower is better"),
    "codebook_use": _Row("codebook use", ".1%", "share of the codebook that these images use"),
    "codebook_perplexity": _Row("codebook perplexity", ",.1f", "effective number of codes in use"),
    "count": _Row("images", ",.0f", "how many were judged"),
}


def metric_rows(
    columns: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, tuple[float, float] | None],
    distance: str,
) -> tuple[Metric, ...]:
    """A row for every number that some column has, in the order of the table above; unknown ones come last.

    Args:
        columns: numbers by name, by the column's name.
        intervals: ends of the 95 % interval of each column's Frechet distance, None where there is none.
        distance: what the feature network calls its distance.
    """
    there = {name for numbers in columns.values() for name in numbers}
    order = [name for name in _ROWS if name in there] + sorted(there - _ROWS.keys())
    rows = []
    for name in order:
        row = _ROWS.get(name, _Row(name.replace("_", " "), ".4g", ""))
        ends = tuple(
            _ends(intervals.get(column), row.form) if name in ("gfid", "rfid", "frechet_distance") else ""
            for column in columns
        )
        values = tuple(format(numbers[name], row.form) if name in numbers else "" for numbers in columns.values())
        rows.append(Metric(name, row.label or distance, values, ends if any(ends) else (), row.meaning))
    return tuple(rows)


def _ends(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}} (95 %)"


def tell(work: Work, report: EvaluationReport) -> None:
    """Print the numbers, the warnings, and where the rest is."""
    table = Table("", *(column if len(report.columns) > 1 else "" for column in report.columns), box=None)
    for metric in report.metrics:
        shown = (
            " ".join(filter(None, (value, ends)))
            for value, ends in zip(metric.values, metric.intervals or [""] * len(metric.values), strict=True)
        )
        table.add_row(escape(metric.label), *shown)
    work.console.print(table, highlight=False)
    say = reporter(work.console)
    for warning in report.warnings:
        say(f"Note: {warning}")
    say(f"Written: {work.root / 'evaluation.json'}, {work.root / 'report.html'}")
