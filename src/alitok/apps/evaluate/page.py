"""The report of an evaluation: one HTML file that opens anywhere, without a network.

Enters: an `EvaluationReport`, with all its numbers (as text) and images (uint8, N 3 h w). Leaves: the file.
`templates/evaluation.html` is its form. What was not measured has no section.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alitok.recipes.published import Published
from alitok.report.curves import Curve, panels
from alitok.report.page import write_page
from alitok.report.sheets import (
    ERROR_LIMIT,
    ClassSamples,
    Neighbours,
    Sheet,
    error_map,
    error_scale,
    image_sheet,
    neighbour_sheets,
    sample_sheet,
)


@dataclass(frozen=True)
class Metric:
    """One row of the numbers.

    Attributes:
        name: its key in `evaluation.json`, such as `gfid`.
        label: for people: "gFID", or "Frechet distance in the features of ..." where it is no FID.
        values: formatted, one for each of the report's columns; empty where a column has none.
        intervals: as many, such as "1.31 to 1.57 (95 %)", each empty where there is none; or nothing at all.
        meaning: what it is, and which direction is better.
    """

    name: str
    label: str
    values: tuple[str, ...]
    intervals: tuple[str, ...] = ()
    meaning: str = ""


@dataclass(frozen=True)
class RankedReconstructions:
    """Images with what each decoder makes of them.

    Attributes:
        originals: (N, 3, h, w) uint8.
        rebuilt: by column, such as "stage 1" and "stage 2": (N, 3, h, w) uint8.
        captions: one for each image, such as "n01440764/3.jpg: 19.3 dB, 20.1 dB".
        note: how they were chosen, or what they are ranked by.
    """

    originals: np.ndarray
    rebuilt: dict[str, np.ndarray]
    captions: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that is shown; what is empty or None has no section.

    Attributes:
        title: of the page.
        summary: one or two sentences.
        command: the exact command.
        warnings: sentences that a reader must know before the numbers.
        columns: what each value of a metric belongs to: ("value",), or ("stage 1", "stage 2").
        metrics: the numbers.
        published: numbers of papers, where this evaluation is of their kind.
        samples: by class.
        samples_note: how they were chosen.
        neighbours: of some samples.
        chosen, worst, best: reconstructions, with maps of their errors.
        curves: panels, such as FID against Inception Score over the guidance.
        protocol: guidance, seed, count, reference, hashes, commit, versions.
    """

    title: str
    summary: str
    command: str
    metrics: tuple[Metric, ...]
    protocol: dict[str, str]
    columns: tuple[str, ...] = ("value",)
    warnings: tuple[str, ...] = ()
    published: Published | None = None
    samples: list[ClassSamples] = field(default_factory=list)
    samples_note: str = "Chosen by the seed alone, not by how they look."
    neighbours: Neighbours | None = None
    chosen: RankedReconstructions | None = None
    worst: RankedReconstructions | None = None
    best: RankedReconstructions | None = None
    curves: list[Curve] = field(default_factory=list)


def write_evaluation(path: Path, report: EvaluationReport) -> None:
    """Write `report` as one HTML file, whole or not at all.

    Raises:
        AlitokError: jinja2 or matplotlib is missing.
    """
    for metric in report.metrics:
        assert len(metric.values) == len(report.columns), metric
        assert len(metric.intervals) in (0, len(report.columns)), metric
    ranked = {
        "Reconstructions": report.chosen,
        "Worst reconstructions": report.worst,
        "Best reconstructions": report.best,
    }
    write_page(
        path,
        "evaluation.html",
        report=report,
        samples=[(entry.name, sample_sheet(entry)) for entry in report.samples],
        neighbours=neighbour_sheets(report.neighbours) if report.neighbours is not None else [],
        ranked=[(heading, shown, _rows(shown)) for heading, shown in ranked.items() if shown is not None],
        error_scale=error_scale() if any(shown is not None for shown in ranked.values()) else None,
        error_limit=ERROR_LIMIT,
        panels=panels(report.curves),
    )


@dataclass(frozen=True)
class _Cell:
    """One image of a row and what stands below it."""

    sheet: Sheet
    label: str


def _rows(shown: RankedReconstructions) -> list[tuple[str, list[_Cell]]]:
    """For each image its caption and its row: the image, then for each decoder what it made and where it errs."""
    rows = []
    for number, (original, caption) in enumerate(zip(shown.originals, shown.captions, strict=True)):
        cells = [_Cell(image_sheet(original, f"image {number + 1}"), "image")]
        for name, images in shown.rebuilt.items():
            made, errors = images[number], error_map(original, images[number])
            cells.append(_Cell(image_sheet(made, f"image {number + 1} through {name}"), name))
            cells.append(_Cell(image_sheet(errors, f"error of {name} on image {number + 1}"), f"error of {name}"))
        rows.append((caption, cells))
    return rows
