"""Numbers and names within sentences."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: `1 class`, `1,000 classes`.

    Args:
        number: how many there are.
        one: what it is called if there is one.
        many: otherwise; `one` with an s unless given.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def listed(names: Iterable[str]) -> str:
    """Names as a sentence holds them: `a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def are(number: int) -> str:
    """The verb that goes with a number."""
    return "is" if number == 1 else "are"
