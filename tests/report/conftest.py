"""A report that has every kind of block, and hostile names in all of its texts."""

import dataclasses

import numpy as np
import pytest

from alitok.metrics.dependency import Raster
from alitok.report.html import write_html
from alitok.report.images import error_scale, nearest_neighbours, reconstructions, samples_by_class
from alitok.report.model import (
    Bullets,
    Cell,
    Code,
    Curve,
    Curves,
    Facts,
    HeatMap,
    HeatMaps,
    Images,
    ImageSheet,
    Report,
    Row,
    Section,
    Table,
)

NASTY = "<script>alert('x')</script>\"'& |`*_ü"


def images(count, seed, size=16):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def _example():
    metrics = Table(
        ("stage 1", "stage 2 " + NASTY),
        (
            Row("rFID " + NASTY, (Cell("0.911", "0.90 to 0.92"), "0.862"), "rfid " + NASTY, "lower " + NASTY),
            Row("codebook use", ("0.991", "")),
        ),
        footnote="95 % " + NASTY,
    )
    published = Table(
        ("gFID " + NASTY,), (Row("here", ("1.45",), strong=True), Row("MAR-H", ("1.55",))), "model", "Others " + NASTY
    )
    sweep = Curve(
        "FID against IS " + NASTY,
        "Inception Score",
        "FID " + NASTY,
        {"power " + NASTY: ([250.25, 301.5], [1.625, 1.375]), "$b_$": ([240.0], [1.75])},
        markers=True,
        labels={"power " + NASTY: ["g 4 " + NASTY, "g 16"]},
        label_name="guidance scale " + NASTY,
    )
    loss = Curve("Loss", "step", "nats", {"a": ([0, 1, 2], [100.0, 1.0, 0.01])}, log_y=True)
    heat = HeatMap("map " + NASTY, np.eye(6, 4), "code", "patch", "r", "c", "m " + NASTY, Raster(2, 2))
    neighbours = nearest_neighbours(
        images(6, 6), images(6, 7), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.0625]), "validation: 0.3 " + NASTY
    )
    return Report(
        title="a report " + NASTY,
        summary="What was measured " + NASTY,
        command="alitok eval --data " + NASTY,
        warnings=("Only 2,000 samples " + NASTY, "The network is not Inception."),
        sections=(
            Section("Metrics", (metrics, published, dataclasses.replace(published, caption="", folded="More"))),
            Section("Curves", (Curves((sweep, loss)),)),
            Section("Heat maps", (HeatMaps((heat,)),)),
            samples_by_class({"zero " + NASTY: images(7, 3), "empty": images(0, 5)}, "By seed " + NASTY),
            neighbours,
            Section("Reconstructions", (reconstructions(images(6, 0), {"s1": images(6, 1), "s2": images(6, 2)}),)),
            Section(
                "Errors",
                (
                    Images(
                        (error_scale(), ImageSheet(images(1, 9), "one", pad=0)),
                    ),
                ),
            ),
            Section("Configuration", (Code("[a]\nname = '</pre>" + NASTY + "'\n", "All " + NASTY),)),
            Section("Notes", (Bullets(("a sentence " + NASTY,)),), "A note " + NASTY),
            Section("Protocol", (Facts({"device " + NASTY: "cpu " + NASTY, "seed": 7, "sizes": [1, 2]}),)),
        ),
    )


@pytest.fixture
def report():
    """The example."""
    return _example()


@pytest.fixture
def page(tmp_path, report):
    """Writes the example, with changes or with other sections only, and returns the page's text."""

    def write(*sections, **changes):
        changes |= {"sections": sections} if sections else {}
        write_html(tmp_path / "report.html", dataclasses.replace(report, **changes))
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write
