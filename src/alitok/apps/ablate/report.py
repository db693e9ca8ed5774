"""The report of an ablation: `ablation.json`, `table.md`, `plot.svg` and `report.html`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from alitok.apps.ablate.effects import effects_of, effects_table
from alitok.apps.ablate.matched import apart_table, dominated_points, matched_arms, matched_table
from alitok.apps.ablate.numbers import Ablation, mean_std, write_numbers
from alitok.apps.ablate.paper import orders_of, orders_table, paper_table
from alitok.apps.ablate.tables import BRIEF_METRICS, CODE_METRICS, IMAGE_METRICS, arms_table, sizes_table
from alitok.apps.ablate.warnings import warnings_of
from alitok.core.console import counted, reporter
from alitok.core.files import write_bytes
from alitok.report.html import write_html
from alitok.report.markdown import markdown
from alitok.report.model import Bullets, Curve, Curves, Facts, Images, ImageSheet, Report, Section
from alitok.report.plots import curve_svg
from alitok.report.terminal import print_table

ORIGINALS = "originals"  # key of the images themselves among the reconstructions
_COLUMNS = 6  # images in a row
_READING = (
    "Bits per image: the cross-entropy of the codes of validation images of known class under the generator. They "
    "are an upper bound: a larger or longer trained generator may need fewer.",
    "Accuracy alone means nothing: a tokenizer that encodes less of the image or uses few of its codes is easier to "
    "predict. Only bits at equal PSNR compare two tokenizers.",
    "PSNR rewards blur. The feature distance is that between a classifier's features of an image and its "
    "reconstruction: 0 is identical, 1 as far as another image. Where the two disagree, compare the reconstructions.",
    "Sample distance is a Frechet distance in the features of a classifier trained on these images. It is not FID and "
    "compares only within this report; sample accuracy is the fraction of samples classified as their class.",
    "Later patches: the fraction of the encoder's influence on grid codes that comes from patches after their own. "
    "It is 0 for a causal encoder.",
    "Arms with prefix codes have more codes; bits count them all, grid bits only the grid codes.",
    "Seconds are wall clock of the trainings, on a machine that may have done other work too.",
)


def write_report(
    root: Path, ablation: Ablation, *, command: str, reconstructions: Mapping[str, np.ndarray] | None = None
) -> Report:
    """Write all four files, each whole or not at all; AlitokError without jinja2 or matplotlib, or as `make_report`.

    `reconstructions` are (n, 3, h, w) uint8 by arm, with the images themselves as `originals`.
    """
    report = make_report(ablation, command, reconstructions or {})
    write_numbers(root / "ablation.json", ablation)
    # Names of folders may hold bytes that are not text.
    write_bytes(root / "table.md", markdown(report).encode("utf-8", "replace"))
    write_bytes(root / "plot.svg", curve_svg(rd_plot(ablation), salt="ablation").encode("utf-8", "replace"))
    write_html(root / "report.html", report)
    return report


def make_report(ablation: Ablation, command: str, reconstructions: Mapping[str, np.ndarray]) -> Report:
    """All numbers, comparisons and warnings; AlitokError where cells were measured on different images."""
    effects, matched = effects_of(ablation), matched_arms(ablation)
    shared = {"data": ablation.data, "preset": ablation.preset, "image size": f"{ablation.image_size} px"}
    sizes = {"patch size": f"{ablation.patch_size} px", "codebook size": ablation.codebook_size}
    arms = len({cell.arm for cell in ablation.cells})
    return Report(
        title=f"alitok: ablation on {ablation.data}",
        summary=(
            f"{counted(len(ablation.cells), 'cell')} of {counted(arms, 'arm')} and "
            f"{counted(len(ablation.seeds()), 'seed')}: {ablation.data} at {ablation.image_size} px, patches of "
            f"{ablation.patch_size} px, codebook size {ablation.codebook_size:,} unless noted. Each arm is a tokenizer "
            "and a generator over its codes, measured on validation images."
        ),
        command=command,
        warnings=tuple(warnings_of(ablation, effects, dominated_points(ablation))),
        sections=(
            Section("Codes, and how predictable they are", (arms_table(ablation, CODE_METRICS),)),
            Section("Images, reconstructed and sampled", (arms_table(ablation, IMAGE_METRICS),)),
            Section(
                "PSNR against bits per image",
                (Curves((rd_plot(ablation),)),),
                "Faint points are single trainings, strong ones their means; a line joins the codebook sizes of an "
                "arm. Of two points at one height, the left one takes fewer bits for the same PSNR.",
            ),
            Section("At equal PSNR", (matched_table(matched), apart_table(matched))),
            Section("Effect of each change", (effects_table(effects),)),
            Section("Codebook sizes", (sizes_table(ablation),)),
            Section("Beside the paper", (paper_table(ablation), orders_table(orders_of(ablation)))),
            Section(
                "Reconstructions",
                (Images(tuple(_sheets(ablation, reconstructions))),),
                "The same validation images in the same places, reconstructed by each arm's first seed.",
            ),
            Section("How to read it", (Bullets(_READING),)),
            Section("Settings", (Facts({**shared, **sizes, **ablation.settings}),)),
        ),
    )


def rd_plot(ablation: Ablation) -> Curve:
    """Means of each arm over its codebook sizes, and every training as a faint point."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    labels: dict[str, list[str]] = {}
    scatter: dict[str, tuple[list[float], list[float]]] = {}
    for arm, title in ablation.arms.items():
        name, sizes = f"{arm}: {title}", ablation.sizes(arm)
        lines[name], labels[name] = ([], []), []
        for size in sizes:
            cells = ablation.of(arm, size)
            bits, psnr = (mean_std(getattr(cell, metric) for cell in cells) for metric in ("bits", "psnr"))
            if bits is not None and psnr is not None:
                lines[name][0].append(bits.mean)
                lines[name][1].append(psnr.mean)
                labels[name].append(arm if len(sizes) == 1 else f"{arm} {size:,}")
            if len(cells) > 1:
                faint = scatter.setdefault(name, ([], []))
                faint[0].extend(cell.bits for cell in cells)
                faint[1].extend(cell.psnr for cell in cells)
    return Curve(
        "PSNR against bits per image",
        "bits per image (fewer to the left)",
        "PSNR, dB (better upwards)",
        lines,
        markers=True,
        labels=labels,
        label_name="arm, codebook",
        scatter=scatter,
        wide=True,
        file="plot.svg",
    )


def print_report(console: Console, ablation: Ablation, report: Report) -> None:
    """Print the table of the arms, the comparison at equal PSNR, and the warnings."""
    matched = matched_arms(ablation)
    for table in (arms_table(ablation, BRIEF_METRICS), matched_table(matched), apart_table(matched)):
        if table.rows:
            print_table(console, table)
    for warning in report.warnings:
        reporter(console)(f"Note: {warning}")


def _sheets(ablation: Ablation, reconstructions: Mapping[str, np.ndarray]) -> list[ImageSheet]:
    titles = {ORIGINALS: "Validation images", **{arm: f"{arm}: {title}" for arm, title in ablation.arms.items()}}
    shown = {name: reconstructions[name] for name in titles if len(reconstructions.get(name, ()))}
    return [
        ImageSheet(
            images,
            f"{len(images)} images: {titles[name]}",
            min(_COLUMNS, len(images)),
            caption=titles[name],
            min_width=64,
            pad=2,
        )
        for name, images in shown.items()
    ]
