"""Writes a report as Markdown: everything but its images; a curve with a file of its own is linked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from alitok.report.model import Block, Bullets, Code, Curves, Facts, Report, Table, fact_text


def markdown(report: Report) -> str:
    """The text, in which nothing is read as markup that was not meant as such."""
    parts = [f"# {escape(report.title)}", escape(report.summary), f"    {' '.join(report.command.split())}"]
    if report.warnings:
        parts += ["## Warnings", _bullets(report.warnings)]
    for section, blocks in report.shown:
        found = [text for block in blocks for text in _block(block)]
        if found:
            parts += [f"## {escape(section.heading)}", escape(section.note), *found]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """In one line, without characters that Markdown or HTML would read as markup."""
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.split()).replace("&", "&amp;"))
    # An underscore inside a word is not markup.
    return re.sub(r"[\\|*`~\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table():
            yield from filter(None, (escape(block.caption), _table(block), escape(block.footnote)))
        case Facts():
            yield _bullets(f"{name}: {fact_text(value)}" for name, value in block.entries.items())
        case Bullets():
            yield _bullets(block.items)
        case Code():
            yield "\n".join(f"    {line}" for line in block.text.splitlines())
        case Curves():
            yield from (f"![{escape(curve.title)}]({curve.file})" for curve in block.curves if curve.file)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {escape(item)}" for item in items)


def _table(table: Table) -> str:
    meaning = ("meaning",) if table.has_meanings else ()
    lines = [
        f"| {' | '.join(map(escape, (table.row_head, *table.columns, *meaning)))} |",
        f"|---|{'---:|' * len(table.columns)}{'---|' * len(meaning)}",
    ]
    for row in table.rows:
        name = f"**{escape(row.name)}** {escape(row.key)}".strip()
        cells = [name, *(escape(cell.text) for cell in row.values), *(escape(row.meaning) for _ in meaning)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
