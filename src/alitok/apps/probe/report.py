"""What a probe leaves: numbers and maps for programs, images of the maps, and a report for people.

Enters: a `ProbeResult`. Leaves: the files that `alitok.apps.probe.probe` names, each whole or not at all.
Shapes: T codes of an image, P = G * G patches, K prefix.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alitok.apps.probe.result import ProbeResult
from alitok.apps.probe.rows import NumberRow, named, number_rows
from alitok.core.console import reporter
from alitok.core.files import write_bytes, write_json
from alitok.metrics.reach import Reach
from alitok.report.curves import Curve, panels
from alitok.report.facts import protocol_rows
from alitok.report.heat import HeatMap, draw_maps, figure_sheet, image_of_code
from alitok.report.page import duration, write_page
from alitok.report.sheets import Sheet, image_sheet

_GRID_CODES_SHOWN = 6  # spread over the image; of the prefix, the first and the last
_DISTURBED = "patch that is disturbed, row by row"
_CODE = "code, in the order they are drawn"


@dataclass(frozen=True)
class Figure:
    """One drawing in the page, with what it shows."""

    heading: str
    sheet: Sheet


def write_probe(result: ProbeResult, place: Path, console: Console) -> None:
    """Write all files into the directory `place`, and tell the numbers.

    Raises:
        AlitokError: jinja2 or matplotlib is missing.
    """
    influence, reach = influence_maps(result), reach_maps(result)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **result.arrays())  # type: ignore[arg-type]  # names of arrays, not of options
    drawn = {"influence.png": draw_maps(influence[:2]), "reach.png": draw_maps(reach), "maps.npz": arrays.getvalue()}
    rows = number_rows(result)
    for name, data in drawn.items():
        write_bytes(place / name, data)
    write_page(
        place / "report.html",
        "probe.html",
        report=result,
        rows=rows,
        influence=[_figure(each) for each in influence],
        codes=_codes(result, influence[0].top),
        reach=[_figure(each) for each in reach],
        mutual=_figure(mutual_map(result)) if result.raster.length > 1 else None,
        panels=panels(_curves(result)),
        protocol=protocol_rows({**result.protocol, "time": _times(result)}, {}),
    )
    write_json(place / "probe.json", result.to_json())
    _tell(result, rows, place, console)


def influence_maps(result: ProbeResult) -> list[HeatMap]:
    """Codes first, then features and probabilities where there are any."""
    meanings = {
        "influence": ("changes of codes", "share of images in which the code changes"),
        "feature_influence": ("moves of features", "how far the feature moves; 1: as far as two images are apart"),
        "probability_influence": ("changes of probabilities", "total variation of the code's probability"),
    }
    return [
        HeatMap(title, kind.mean, "code", "patch", _CODE, _DISTURBED, meaning, result.raster)
        for (title, meaning), kind in ((meanings[name], kind) for name, kind in result.kinds().items())
    ]


def reach_maps(result: ProbeResult) -> list[HeatMap]:
    """One for each decoder, in one scale."""
    top = max(float(each.pixels.mean.max()) for each in result.reach.values()) or None

    def drawn(name: str, each: Reach) -> HeatMap:
        labels = "patch that is drawn, row by row", "code that is replaced, in the order they are drawn"
        meaning = "mean change of the patch's pixels; 1: black to white"
        return HeatMap(f"by {named(name)}", each.pixels.mean, "patch", "code", *labels, meaning, each.raster, top)

    return [drawn(name, each) for name, each in result.reach.items()]


def mutual_map(result: ProbeResult) -> HeatMap:
    """How much of the row's code is known from the column's; what chance makes negative is drawn as nothing."""
    share = np.where(np.isfinite(result.mutual.share), result.mutual.share.clip(min=0), np.nan)
    labels = "code that is to be known", "code that it is known from"
    meaning = "share of the code's entropy"
    return HeatMap("mutual information", share, "code", "code", *labels, meaning, result.raster)


def _figure(shown: HeatMap) -> Figure:
    alt = f"{shown.title}: {shown.meaning}, one row for each {shown.rows}, one column for each {shown.columns}"
    return Figure(shown.title, figure_sheet(draw_maps([shown]), alt))


def _codes(result: ProbeResult, top: float) -> list[Figure]:
    """For a few codes the image of which patches move them."""
    raster, mean = result.raster, result.influence.codes.mean
    spread = raster.prefix + np.unique(np.linspace(0, raster.patches - 1, _GRID_CODES_SHOWN).round().astype(int))
    chosen = sorted({0, raster.prefix - 1} if raster.prefix else set()) + spread.tolist()
    shown = []
    for code in chosen:
        own = int(raster.cells()[code])
        row, column = divmod(own, raster.grid)
        name = f"prefix code {code}" if code < raster.prefix else f"row {row}, column {column}"
        image = image_of_code(mean[code], own, raster.grid, top)
        shown.append(Figure(name, image_sheet(image, f"patches that move the code of {name}")))
    return shown


def _curves(result: ProbeResult) -> list[Curve]:
    losses = result.losses
    places = np.arange(result.raster.length)

    def lines(values: np.ndarray) -> dict[str, tuple[list[float], list[float]]]:
        parts = {"prefix codes": slice(0, losses.prefix), "grid codes": slice(losses.prefix, None)}
        found = {name: (places[part].astype(float).tolist(), values[part].tolist()) for name, part in parts.items()}
        return {name: points for name, points in found.items() if points[0]}

    return [
        Curve("Loss by position", "position in the sequence", "bits per code", lines(losses.bits)),
        Curve("Codes guessed right by position", "position in the sequence", "share", lines(losses.right)),
        Curve("Entropy by position", "position in the sequence", "bits per code", lines(result.mutual.entropy)),
    ]


def _times(result: ProbeResult) -> str:
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in result.seconds.items())


def _tell(result: ProbeResult, rows: list[NumberRow], place: Path, console: Console) -> None:
    """The numbers as one table, the warnings, and where the rest is."""
    table = Table("", "", "95 %", "if even", box=None)
    for row in rows:
        table.add_row(escape(row.label), row.value, row.interval, row.even)
    console.print(table, highlight=False)
    say = reporter(console)
    for warning in result.warnings:
        say(f"Note: {warning}")
    say(f"Written: {place / 'probe.json'}, {place / 'report.html'}, maps in {place / 'maps.npz'}")
