"""Tables that stay whole, whatever the terminal's width is."""

import io

import pytest
from rich.console import Console

from alitok.core.columns import print_columns

HEADS = ("what", "images\na second", "arith-\nmetic")
ROWS = [("one [x]", "1,234,567", "12%"), ("two", "8")]


def printed(width):
    written = io.StringIO()
    print_columns(Console(file=written, width=width), HEADS, ROWS)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_a_wide_table_has_its_heads_on_one_line():
    assert printed(38) == [
        "what     images a second  arithmetic",
        "one [x]          1,234,567         12%",
        "two                      8",
    ]


def test_a_narrower_one_breaks_its_heads_and_then_moves_together():
    assert (
        printed(37)
        == printed(26)
        == [
            "          images  arith-",
            "what      a second   metic",
            "one [x]  1,234,567     12%",
            "two              8",
        ]
    )
    assert printed(25)[2] == "one [x] 1,234,567    12%"


@pytest.mark.parametrize("width", [5, 24, 25])
def test_one_that_does_not_fit_is_printed_uncut(width):
    assert printed(width) == printed(24)


def test_a_column_in_the_middle_may_begin_at_the_left():
    written = io.StringIO()
    print_columns(Console(file=written, width=80), ("a", "name", "b"), [("1", "x", "2")], left="name")
    assert written.getvalue().splitlines()[1].rstrip() == "1  x     2"
