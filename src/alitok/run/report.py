"""The report of a run: one HTML file that opens anywhere, without a network.

Enters: a `Report`, with all its numbers and images (uint8, N 3 h w). Leaves: the file. Images stand in it as PNG
contact sheets, curves as inline SVG; `templates/report.html` is its form.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alitok.report.curves import Curve, panels
from alitok.report.page import write_page
from alitok.report.sheets import (
    ClassSamples,
    Neighbours,
    Reconstructions,
    neighbour_sheets,
    reconstruction_sheets,
    sample_sheet,
)


@dataclass(frozen=True)
class Stage:
    """What one training took."""

    name: str
    steps: int
    seconds: float
    seconds_per_step: float
    images_per_second: float
    parameters: int


@dataclass(frozen=True)
class Report:
    """Everything that is shown.

    Attributes:
        title: of the page.
        summary: one or two sentences.
        command: the exact command.
        configuration: the resolved configuration as text.
        numbers: (name, value, what it means or what to compare it with).
        stages: the trainings.
        reconstructions: of validation images.
        samples: by class.
        neighbours: of some samples.
        curves: panels.
        environment: versions, device, threads, commit, date.
    """

    title: str
    summary: str
    command: str
    configuration: str
    numbers: list[tuple[str, str, str]]
    stages: list[Stage]
    reconstructions: Reconstructions
    samples: list[ClassSamples]
    neighbours: Neighbours | None
    curves: list[Curve]
    environment: dict[str, str]


def write_report(path: Path, report: Report) -> None:
    """Write `report` as one HTML file, whole or not at all.

    Raises:
        AlitokError: jinja2 or matplotlib is missing.
    """
    write_page(
        path,
        "report.html",
        report=report,
        reconstructions=reconstruction_sheets(report.reconstructions),
        samples=[(entry.name, sample_sheet(entry)) for entry in report.samples],
        neighbours=neighbour_sheets(report.neighbours) if report.neighbours is not None else [],
        panels=panels(report.curves),
    )
