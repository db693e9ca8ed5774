"""Prints a report's numbers and warnings on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from alitok.report.model import Table


def print_table(console: Console, table: Table) -> None:
    """Print the rows; their keys and meanings stand in the report alone."""
    shown = RichTable("", *table.columns, box=None)
    for row in table.rows:
        shown.add_row(escape(row.name), *(escape(cell.text) for cell in row.values))
    console.print(shown, highlight=False)
