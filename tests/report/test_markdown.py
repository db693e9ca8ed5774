import re

from alitok.report.markdown import escape, markdown
from alitok.report.model import Cell, Curve, Curves, Facts, Images, Report, Row, Section, Table


def test_markdown_has_no_markup_but_its_own():
    assert escape("a|b *c* `d` [e](f) <g> & _h_ i_j\n k ~l~ A < B \\") == (
        r"a\|b \*c\* \`d\` \[e\](f) &lt;g> &amp; \_h\_ i_j k \~l\~ A < B \\"
    )


def test_the_whole_text():
    table = Table(
        ("value",), (Row("rFID", (Cell("0.9", "0.8 to 1.0"),), "rfid", "lower"), Row("use", ("",))), footnote="f"
    )
    curve = Curve("Plot", "x", "y", {}, file="plot.svg")
    sections = (
        Section("Metrics", (table,), "A note."),
        Section("Curves", (Curves((curve,)),)),
        Section("Images alone", (Images(()),)),
        Section("Protocol", (Facts({"seed": 7}),)),
    )
    assert markdown(Report("a title", "What it is.", "alitok  eval", sections, ("Careful.",))) == (
        "# a title\n\nWhat it is.\n\n    alitok eval\n\n## Warnings\n\n- Careful.\n\n"
        "## Metrics\n\nA note.\n\n| name | value | meaning |\n|---|---:|---|\n"
        "| **rFID** rfid | 0.9 0.8 to 1.0 | lower |\n| **use** | \N{EN DASH} |  |\n\nf\n\n"
        "## Curves\n\n![Plot](plot.svg)\n\n## Protocol\n\n- seed: 7\n"
    )


def test_hostile_names_are_escaped(report):
    outside = re.sub(r"(?m)^    .*$", "", markdown(report))  # code is taken as it stands
    assert "<script" not in outside
    assert "&lt;script" in outside
    for row in re.findall(r"(?m)^\|.*", outside):
        assert len(re.findall(r"(?<!\\)\|", row)) in (5, 3)
