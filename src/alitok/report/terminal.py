"""Prints a report's table on the terminal."""

from __future__ import annotations

from rich.console import Console

from alitok.core import console as terminal
from alitok.report.model import Table


def print_table(console: Console, table: Table) -> None:
    """Print the rows; their keys and meanings are in the report alone."""
    rows = [(row.name, *(cell.text for cell in row.values)) for row in table.rows]
    terminal.print_table(console, ("", *table.columns), rows)
