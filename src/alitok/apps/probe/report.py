"""The files of a probe: numbers and maps, heat maps as images, and a report."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from rich.console import Console

from alitok.apps.probe.result import ProbeResult
from alitok.core.console import duration, reporter
from alitok.core.files import write_bytes, write_json
from alitok.report.heat import draw_maps, image_of_code
from alitok.report.html import write_html
from alitok.report.model import (
    Cell,
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
from alitok.report.terminal import print_table

_GRID_CODES_SHOWN = 6  # spread over the image; of the prefix, the first and the last
_DECODERS = {"stage1": "stage 1", "stage2": "stage 2"}  # names for people
_PATCH, _CODE = "replaced patch, row by row", "code, in sequence"
_FOOTNOTE = (
    "Below a fraction, its 95 % bootstrap interval over images; beside it, its value if every patch had the same "
    "effect."
)
# Label, meaning and format of each number.
_INFLUENCE = {
    "influence_own": ("influence, own patch", "Of all changes of codes, the fraction caused by a code's own patch."),
    "influence_past": (
        "influence, past",
        "The fraction caused by earlier patches, whose codes a generator already has.",
    ),
    "influence_future": (
        "influence, future",
        "The fraction caused by later patches in raster order. A left-to-right generator must predict a code before "
        "anything of these exists.",
    ),
    "influence_future_grid": (
        "influence, future, grid codes",
        "Of changes of grid codes alone: comparable between tokenizers with different prefixes or none.",
    ),
    "influence_future_prefix": (
        "influence, future, prefix codes",
        "Of changes of prefix codes, which stand for the first row: most of an image comes after it.",
    ),
    "feature_influence_future": (
        "feature influence, future",
        "By how far features move before quantization: a small move counts little.",
    ),
    "probability_influence_future": (
        "probability influence, future",
        "By how much the distribution of codes given the feature changes: a move towards another code counts even if "
        "the code stays.",
    ),
}
_REACH = {
    "own": ("own patch", "Of all changes of pixels, the fraction that a code makes in its own patch."),
    "past": (
        "past",
        "The fraction that a code makes in earlier patches. It is 0 for a causal decoder, whose decoded patches are "
        "final; above 0, no patch is final before the last code.",
    ),
    "future": ("future", "The fraction that a code makes in later patches, which the decoder decodes from it too."),
    "past_grid": ("past, grid codes", "Of the changes that grid codes alone make."),
}
_PREDICTION = {
    "accuracy": ("top-1 accuracy", "On validation codes, each given those before it.", ".1%"),
    "bits_per_image": (
        "bits per image",
        "Cross-entropy of the codes of a validation image; lower is easier to predict.",
        ",.1f",
    ),
    "grid_bits_per_image": ("bits of the grid codes", "Without the prefix codes.", ",.1f"),
    "train_accuracy": ("top-1 accuracy, training", "On its training codes; far above the other, it overfits.", ".1%"),
    "mutual_bits": ("mutual information, bits", "Mean over pairs of positions, corrected for chance.", ".3f"),
    "mutual_bits_before": (
        "with the code before",
        "Mean over neighbors in the sequence. A generator reads all earlier codes together, and may know more.",
        ".3f",
    ),
    "mutual_bits_above": ("with the code above", "Mean over grid codes of adjacent rows.", ".3f"),
}


def write_probe(result: ProbeResult, root: Path, console: Console) -> None:
    """Write all files into `root`, each whole or not at all, and print the numbers.

    AlitokError without jinja2 or matplotlib.
    """
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **result.arrays())  # type: ignore[arg-type]  # names of arrays, not of options
    influence, reach = draw_maps(influence_maps(result)[:2]), draw_maps(reach_maps(result))
    report = make_report(result)
    for name, data in (("influence.png", influence), ("reach.png", reach), ("maps.npz", arrays.getvalue())):
        write_bytes(root / name, data)
    write_html(root / "report.html", report)
    write_json(root / "probe.json", result.to_json())
    log = reporter(console)
    print_table(console, numbers_table(result))
    for warning in result.warnings:
        log(f"Note: {warning}")
    log(f"Written: {root / 'probe.json'}, {root / 'report.html'}, maps in {root / 'maps.npz'}")


def make_report(result: ProbeResult) -> Report:
    """All numbers, maps and curves."""
    raster, influence, mutual = result.raster, result.influence, result.mutual
    prefix = f" and {raster.prefix} prefix codes" if raster.prefix else ""
    each = influence.images if influence.exact else f"{influence.perturbations // raster.patches:,} random ones"
    seconds = ", ".join(f"{name} {duration(value)}" for name, value in result.seconds.items())
    left_out = "" if mutual.exact else "a pair that was left out, or "
    return Report(
        title=result.title,
        summary=(
            f"{result.data}: {raster.grid} x {raster.grid} grid codes{prefix} per image. Patches of "
            f"{influence.images:,} validation images were replaced one at a time, each in {each} of them: "
            f"{influence.perturbations:,} perturbed images."
        ),
        command=result.command,
        warnings=result.warnings,
        sections=(
            Section("Numbers", (numbers_table(result),), f"Codes are predicted by {result.predictions.generator}."),
            Section(
                "Which patches change which codes",
                (HeatMaps(tuple(influence_maps(result))),),
                "A row is a code, a column a patch that was replaced by that of another image; bright: the code "
                "changes with it. The dashed line is each code's own patch, right of it is the future, left of it "
                "the past. Colors follow the square root, so that weak influence is visible.",
            ),
            Section(
                "Which patches change one code",
                (Images(tuple(_code_sheets(result))),),
                "Rows of the first map in the layout of the image and in the same colors. The frame is the code's own "
                "patch.",
            ),
            Section(
                "Which patches a code changes",
                (HeatMaps(tuple(reach_maps(result))),),
                "A column is a code that was replaced by that of another image, a row a patch of the decoded image. "
                "Above the dashed line are patches before the code: black for a causal decoder.",
            ),
            Section("Curves", (Curves(tuple(_curves(result))),)),
            Section(
                "Mutual information of the codes",
                (HeatMaps((mutual_map(result),) if raster.length > 1 else ()),),
                f"Fraction of the entropy of the row's code that is known from the column's code, over "
                f"{mutual.images:,} images and corrected for chance. Grey: {left_out}a constant code.",
            ),
            Section("Protocol", (Facts({**result.protocol, "time": seconds}),)),
        ),
    )


def numbers_table(result: ProbeResult) -> Table:
    """All numbers of `probe.json`, in the same order."""
    fractions, rows = result.fractions(), []
    for name, value in result.numbers().items():
        if name in fractions:
            found = fractions[name]
            decoder, _, part = name.partition("_reach_")
            label, meaning = _REACH[part] if part else _INFLUENCE[name]
            label = f"{_DECODERS.get(decoder, decoder)} reach, {label}" if part else label
            bounds = f"{_percent(found.low)} to {_percent(found.high)}"
            cells: tuple[str | Cell, ...] = (Cell(_percent(value), bounds), _percent(found.uniform))
        else:
            label, meaning, form = _PREDICTION[name]
            cells = f"{value:{form}}", ""
        rows.append(Row(label, cells, name, meaning))
    return Table(("value", "if uniform"), tuple(rows), footnote=_FOOTNOTE)


def influence_maps(result: ProbeResult) -> list[HeatMap]:
    """Codes first, then features and probabilities if measured."""
    texts = {
        "influence": ("changes of codes", "fraction of images in which the code changes"),
        "feature_influence": ("moves of features", "distance; 1 = mean distance between two images"),
        "probability_influence": ("changes of probabilities", "total variation of the code's distribution"),
    }
    return [
        HeatMap(texts[name][0], kind.mean, "code", "patch", _CODE, _PATCH, texts[name][1], result.raster)
        for name, kind in result.influences().items()
    ]


def reach_maps(result: ProbeResult) -> list[HeatMap]:
    """One for each decoder, on one scale."""
    limit = max(float(each.pixels.mean.max()) for each in result.reach.values()) or None
    labels = "decoded patch, row by row", "replaced code, in sequence", "mean change of its pixels; 1 = black to white"
    return [
        HeatMap(f"by {_DECODERS.get(name, name)}", each.pixels.mean, "patch", "code", *labels, each.raster, limit)
        for name, each in result.reach.items()
    ]


def mutual_map(result: ProbeResult) -> HeatMap:
    """Mutual information over the entropy of the row's code; what chance makes negative is 0."""
    values = result.mutual.normalized
    values = np.where(np.isfinite(values), values.clip(min=0), np.nan)
    labels = "code to be predicted", "known code", "fraction of the code's entropy"
    return HeatMap("mutual information", values, "code", "code", *labels, result.raster)


def _code_sheets(result: ProbeResult) -> list[ImageSheet]:
    """For a few codes, the image of the patches that change them."""
    raster, map_ = result.raster, influence_maps(result)[0]
    spread = raster.prefix + np.unique(np.linspace(0, raster.patches - 1, _GRID_CODES_SHOWN).round().astype(int))
    sheets = []
    for code in sorted({0, raster.prefix - 1} if raster.prefix else set()) + spread.tolist():
        own = int(raster.cells()[code])
        row, column = divmod(own, raster.grid)
        name = f"prefix code {code}" if code < raster.prefix else f"row {row}, column {column}"
        image = image_of_code(map_.values[code], own, raster.grid, map_.top)
        sheets.append(ImageSheet(image[None], f"patches that change the code of {name}", caption=name, pad=0))
    return sheets


def _curves(result: ProbeResult) -> list[Curve]:
    predictions = result.predictions
    positions = np.arange(result.raster.length, dtype=float)

    def lines(values: np.ndarray) -> dict[str, tuple[list[float], list[float]]]:
        parts = {"prefix codes": slice(0, predictions.prefix), "grid codes": slice(predictions.prefix, None)}
        found = {name: (positions[part].tolist(), values[part].tolist()) for name, part in parts.items()}
        return {name: points for name, points in found.items() if points[0]}

    position = "position in the sequence"
    return [
        Curve("Cross-entropy by position", position, "bits per code", lines(predictions.bits)),
        Curve("Top-1 accuracy by position", position, "fraction", lines(predictions.accuracy)),
        Curve("Entropy by position", position, "bits per code", lines(result.mutual.entropy)),
    ]


def _percent(value: float) -> str:
    """An exact 0 has no digit after the point."""
    return "0" if value == 0 else f"{value:.1%}"
