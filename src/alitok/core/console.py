"""What a command prints: messages, numbers and durations, tables and progress bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

Reporter = Callable[[str], None]  # prints one message

_FORMS = ((False, 2), (True, 2), (True, 1))  # whether heads are broken, spaces between columns; the widest first
_UNBOUNDED = 10_000  # characters, wider than any table
_PLAIN_LINES = 5  # lines per progress bar where the output is not a terminal


def reporter(console: Console) -> Reporter:
    """Print messages verbatim; the terminal wraps long lines, so that paths can be copied."""
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: `1 class`, `1,000 classes`; `many` is `one` with an s unless given."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def are(number: int) -> str:
    """The verb that goes with a number."""
    return "is" if number == 1 else "are"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: `45 s`, `3.5 min`, `2.0 days`."""
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}" if seconds < 10 * unit else f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def print_table(
    console: Console,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Iterable[str] = (),
    total: Sequence[str] = (),
) -> None:
    """Print a table without borders: the widest form that fits the console, else the narrowest, uncut.

    A line break in a head marks where it may be broken; a hyphen before it goes otherwise. The first column and those
    with heads in `left` are aligned left, others right. `total` is a last row in bold.
    """
    rows, left = list(rows), tuple(left)

    def form(broken: bool, gap: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
        for place, head in enumerate(heads):
            shown = head if broken else head.replace("-\n", "").replace("\n", " ")
            justify: JustifyMethod = "right" if place and head not in left else "left"
            table.add_column(escape(shown), justify=justify, vertical="bottom", no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row))
        if total:
            table.add_row(*map(escape, total), style="bold")
        return table

    forms = [form(broken, gap) for broken, gap in _FORMS]
    fitting = (table for table in forms if _width(table, console) <= console.width)
    console.print(_Uncut(next(fitting, forms[-1])), crop=False, highlight=False)


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).maximum


class _Uncut:
    """A table as wide as it must be, whatever the width of the console, which must not crop it."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update(width=_width(self.table, console)))


class Bar:
    """One progress bar; `advance` shows the step, numbers and the time left."""

    def __init__(self, progress: Progress, title: str, total: int, done: int) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._task = progress.add_task(title, total=total, completed=done, numbers="")
        self._last_line, self._began, self._first = done, time.monotonic(), done

    def advance(self, step: int, numbers: Mapping[str, float] | None = None, total: int | None = None) -> None:
        """Move to `step`; `numbers` replace those shown, and `total` the number of steps."""
        self._total = total or self._total
        self._progress.update(self._task, completed=step, total=self._total)
        if numbers is None:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self._progress.update(self._task, numbers=shown)
        console = self._progress.console
        if not console.is_terminal and (step - self._last_line) * _PLAIN_LINES >= self._total:
            self._last_line = step
            left = (time.monotonic() - self._began) / max(step - self._first, 1) * (self._total - step)
            console.print(f"  {self._title}  {step}/{self._total}  {shown}  {duration(left)} left", highlight=False)


@contextmanager
def progress_bar(console: Console, title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A bar on a terminal, a few plain lines elsewhere, nothing on a quiet console."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, title, total, done)
