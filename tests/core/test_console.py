import io

import pytest
from rich.console import Console

from alitok.core.console import are, counted, duration, listed, print_table, progress_bar


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (1, ("class", "classes"), "1 class"),
        (1000, ("class", "classes"), "1,000 classes"),
    ],
)
def test_a_number_with_what_it_counts(number, words, said):
    assert counted(number, *words) == said


def test_names_in_a_sentence():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(name for name in "abc") == "a, b and c"


def test_a_verb_with_its_number():
    assert [are(number) for number in (0, 1, 2)] == ["are", "is", "are"]


def test_a_duration_in_the_unit_that_reads_best():
    printed_as = [duration(seconds) for seconds in (0.4, 119, 120, 3_601, 7_200, 100_000, 200_000)]
    assert printed_as == ["0 s", "119 s", "2.0 min", "60 min", "2.0 h", "28 h", "2.3 days"]


HEADS = ("what", "images\na second", "arith-\nmetic")
ROWS = [("one [x]", "1,234,567", "12%"), ("two", "8")]


def printed(width):
    written = io.StringIO()
    print_table(Console(file=written, width=width), HEADS, ROWS)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_a_wide_table_has_its_heads_on_one_line():
    assert printed(36) == [
        "what     images a second  arithmetic",
        "one [x]        1,234,567         12%",
        "two                    8",
    ]


def test_a_narrower_one_breaks_its_heads_and_then_moves_together():
    assert (
        printed(35)
        == printed(26)
        == [
            "            images  arith-",
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
    print_table(Console(file=written, width=80), ("a", "name", "b"), [("1", "x", "2")], left=["name"])
    assert written.getvalue().splitlines()[1].rstrip() == "1  x     2"


def test_without_a_terminal_a_bar_prints_a_few_plain_lines():
    console = Console(file=io.StringIO(), width=200)
    with progress_bar(console, "stage1", total=100) as bar:
        for step in range(1, 101):
            bar.advance(step, {"loss": 0.5})
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 5
    assert "stage1  100/100  loss 0.5" in lines[-1]
