"""Tables and sentences of an ablation as Markdown.

Enter: what a report shows. Leaves: text in which nothing is read as a sign that was not meant as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from alitok.apps.ablate.findings import Findings
from alitok.apps.ablate.table import Table


def markdown_report(
    title: str, summary: str, command: str, *, arms: Table, found: Findings, settings: Mapping[str, str]
) -> str:
    """The whole report but for its images; the plot is named as the file beside it.

    Args:
        title: of the whole.
        summary: one or two sentences.
        command: as it was typed.
        arms: the main table.
        found: all that follows from the numbers.
        settings: what the numbers depend on.
    """
    parts = [f"# {escaped(title)}", "", escaped(summary), "", f"    {' '.join(command.split())}", ""]
    parts += _list("Warnings", found.warnings)
    parts += [*_table(arms), "![PSNR against bits an image](plot.svg)", ""]
    parts += _list("Step by step", found.steps)
    if found.matched is not None:
        parts += [*_table(found.matched), *_list("", [*found.matched_sentences, *found.confidences])]
    parts += _table(found.sizes) if found.sizes is not None else []
    parts += [*_table(found.paper), *_list("", found.orders)]
    parts += _list("How to read it", found.reading)
    parts += _list("Settings", (f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(parts)


def escaped(text: str) -> str:
    """In one line, without what Markdown or HTML would read as a sign of its own."""
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.split()).replace("&", "&amp;"))
    # An underscore inside a word is none.
    return re.sub(r"[\\|*`~\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)


def _table(table: Table) -> list[str]:
    """With its heading and note, and an empty line behind."""
    lines = [f"| {' | '.join(map(escaped, (table.first, *table.columns)))} |", f"|---|{'---:|' * len(table.columns)}"]
    for row in table.rows:
        name = f"**{escaped(row.name)}** {escaped(row.title)}".strip()
        lines.append(f"| {' | '.join([name, *(escaped(entry.text) for entry in row.values)])} |")
    return [f"## {escaped(table.heading)}", "", *([escaped(table.note), ""] if table.note else []), *lines, ""]


def _list(heading: str, sentences: Iterable[str]) -> list[str]:
    said = [f"- {escaped(sentence)}" for sentence in sentences]
    return [*([f"## {heading}", ""] if heading else []), *said, ""] if said else []
