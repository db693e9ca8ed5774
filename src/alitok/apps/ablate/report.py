"""The report of an ablation: what was measured, what each step changed, and what none of it proves.

Enters: an `Ablation`, and some reconstructions. Leave, in the directory:

    ablation.json     the numbers, for programs
    table.md          tables and sentences as Markdown
    plot.svg          PSNR against bits an image
    report.html       all of it, in one file that opens without a network; `templates/ablation.html` is its form
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from alitok.apps.ablate.findings import findings
from alitok.apps.ablate.markdown import markdown_report
from alitok.apps.ablate.numbers import Ablation, write_numbers
from alitok.apps.ablate.plot import plot
from alitok.apps.ablate.table import BRIEF, CODES, IMAGES, arms_table
from alitok.core.console import counted, reporter
from alitok.core.files import write_bytes
from alitok.core.images import grid
from alitok.report.facts import protocol_rows
from alitok.report.page import write_page
from alitok.report.sheets import Sheet, image_sheet
from alitok.report.svg import inside_page

ORIGINALS = "originals"  # the key of the images themselves among the sheets
_SHOWN_WIDTH, _COLUMNS = 64, 6  # CSS pixels of a reconstruction, at least; reconstructions in a row


@dataclass(frozen=True)
class _Page:
    """What the head of every report's page shows."""

    title: str
    summary: str
    command: str


def write_ablation(
    root: Path, ablation: Ablation, *, command: str, sheets: Mapping[str, np.ndarray] | None = None
) -> list[str]:
    """Write `ablation.json`, `table.md`, `plot.svg` and `report.html`, each whole or not at all.

    Args:
        root: the directory.
        ablation: what is finished; may be a part, or nothing.
        command: as it was typed.
        sheets: reconstructions (n, 3, h, w) uint8 by arm, and the images themselves as `originals`.

    Returns:
        The warnings, one sentence or two each.

    Raises:
        AlitokError: jinja2 or matplotlib is missing, or numbers of cells do not belong together.
    """
    found, svg = findings(ablation), plot(ablation)
    head = _Page(f"alitok: ablation on {ablation.data}", _summary(ablation), command)
    settings = _settings(ablation)
    text = markdown_report(head.title, head.summary, command, arms=arms_table(ablation), found=found, settings=settings)
    write_numbers(root / "ablation.json", ablation)
    # Names of folders may hold bytes that are no text.
    write_bytes(root / "table.md", text.encode("utf-8", "replace"))
    write_bytes(root / "plot.svg", svg.encode("utf-8", "replace"))
    write_page(
        root / "report.html",
        "ablation.html",
        report=head,
        found=found,
        codes=arms_table(ablation, CODES, "Codes, and how well they are guessed"),
        images=arms_table(ablation, IMAGES, "Images, reconstructed and drawn"),
        plot=inside_page(svg),
        strips=_strips(ablation, sheets or {}),
        settings=settings,
    )
    return found.warnings


def print_ablation(console: Console, ablation: Ablation) -> None:
    """Print the table of the arms, what was found at equal fidelity, and the warnings."""
    found = findings(ablation)
    table = arms_table(ablation, BRIEF)
    shown = RichTable(table.first, *table.columns, box=None)
    for row in table.rows:
        shown.add_row(escape(row.name), *(entry.text for entry in row.values))
    console.print(shown, highlight=False)
    say = reporter(console)
    for sentence in found.matched_sentences:
        say(sentence)
    for warning in found.warnings:
        say(f"Note: {warning}")


def _summary(ablation: Ablation) -> str:
    cells, seeds = len(ablation.cells), len(ablation.seeds())
    return (
        f"{counted(cells, 'cell')} of {counted(len({cell.arm for cell in ablation.cells}), 'arm')} and "
        f"{counted(seeds, 'seed')}: {ablation.data} at {ablation.image_size} px, patches of "
        f"{ablation.patch_size} px, {ablation.codebook_size:,} codes unless said otherwise. Every arm is a tokenizer "
        "and a generator over its codes, measured on validation images."
    )


def _settings(ablation: Ablation) -> dict[str, str]:
    shared = {"data": ablation.data, "preset": ablation.preset, "image size": f"{ablation.image_size} px"}
    sizes = {"patch size": f"{ablation.patch_size} px", "codebook": ablation.codebook_size}
    return protocol_rows({**shared, **sizes, **ablation.settings}, {})


def _strips(ablation: Ablation, sheets: Mapping[str, np.ndarray]) -> list[tuple[str, Sheet]]:
    """Caption and images of each arm, in its order; first the images themselves."""
    titles = {ORIGINALS: "Held-out images", **{arm: f"{arm}: {title}" for arm, title in ablation.arms.items()}}
    return [(title, _strip(sheets[name], title)) for name, title in titles.items() if len(sheets.get(name, ()))]


def _strip(images: np.ndarray, title: str) -> Sheet:
    scale = -(-_SHOWN_WIDTH // images.shape[-1])
    enlarged = images.repeat(scale, axis=2).repeat(scale, axis=3)
    return image_sheet(grid(enlarged, min(_COLUMNS, len(enlarged)), pad=2), f"{len(images)} images: {title}")
