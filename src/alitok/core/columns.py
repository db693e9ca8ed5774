"""Tables of numbers that stay whole in a narrow terminal.

Enters: heads, in which a line break marks where they may be broken (a hyphen before it goes where they are not), and
rows of text. Leaves: the widest form that fits; where none does the narrowest, uncut, which the terminal wraps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

_FORMS = ((False, 2), (True, 2), (True, 1))  # whether heads are broken, spaces between columns; the widest first
_UNBOUND = 10_000  # letters, more than any table has


def print_columns(console: Console, heads: Sequence[str], rows: Iterable[Sequence[str]], left: str = "") -> None:
    """Print a table without borders.

    Args:
        console: where.
        heads: of the columns.
        rows: text for each head, or fewer.
        left: the head of a column that begins at the left, as the first one does; the others end at the right.
    """
    rows = list(rows)
    forms = [_table(heads, rows, left, broken, gap) for broken, gap in _FORMS]
    fitting = (form for form in forms if _width(form, console) <= console.width)
    console.print(_Uncut(next(fitting, forms[-1])), crop=False, highlight=False)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: str, broken: bool, gap: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for place, head in enumerate(heads):
        shown = head if broken else head.replace("-\n", "").replace("\n", " ")
        justify: JustifyMethod = "right" if place and head != left else "left"
        table.add_column(escape(shown), justify=justify, vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=_UNBOUND), table).maximum


class _Uncut:
    """A table that is as wide as it must be, whatever the console's width is."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it; the console must not crop."""
        yield from console.render(self.table, options.update(width=_width(self.table, console)))
