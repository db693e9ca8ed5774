import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from alitok.report.model import Curve, Curves, Section
from alitok.report.plots import curve_svg

NASTY = "<script>alert('x')</script>\"'& |`*_ü"
LINES = {"power 1": ([100.0, 200.0, 300.0], [3.0, 2.0, 2.5]), "power 2": ([150.0, 250.0], [2.75, 2.25])}
LABELS = {"power 1": ["4", "8", "16"], "power 2": ["5", "9"]}


def shown(*curves):
    return Section("Curves", (Curves(curves),))


def test_a_curve_becomes_one_svg_with_its_lines(page, read):
    text = page()
    found = read(text)
    assert [tag for tag, _ in found.elements].count("svg") == 2
    strokes = [attributes.get("style", "") for tag, attributes in found.elements if tag == "path"]
    assert [any(c in style for style in strokes) for c in ("#0072b2", "#d55e00", "#009e73")] == [True, True, False]
    for label in ("Loss", "step", "nats", "0.01", "100", "$b_$"):
        assert label in found.text
    identifiers = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    used = {attributes["href"][1:] for _, attributes in found.elements if "href" in attributes}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used
    assert used <= set(identifiers)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("markers", [False, True])
@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(
    "lines",
    [
        {},
        {"a": ([], [])},
        {"a": ([5], [0.3])},
        {"a": ([0, 1], [0.0, -1.0])},
        {"a": ([0, 1, 2], [1.0, math.nan, 2.0])},
    ],
)
def test_curves_with_little_in_them(lines, log_y, markers):
    labels = {name: ["x"] * len(x) for name, (x, _) in lines.items()} if markers else {}
    svg = curve_svg(Curve("t", "x", "y", lines, log_y, markers, labels))
    assert ("no data" in svg) == (not any(x for x, _ in lines.values()))


def test_every_point_of_a_sweep_is_marked_labelled_and_listed(page):
    text = page(shown(Curve("Sweep", "IS", "FID", LINES, markers=True, labels=LABELS)))
    svg = re.search(r"<svg.*?</svg>", text, re.DOTALL)[0]
    # A marker is defined once a line and once in the legend, and used at each point.
    assert len(re.findall(r"<use [^>]*style=\"fill: #0072b2", svg)) == 3 + 1
    assert len(re.findall(r"<use [^>]*style=\"fill: #d55e00", svg)) == 2 + 1
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"4", "8", "16", "5", "9"} <= set(labels)
    table = text[text.index("Data points") :]
    rows = [
        re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr><th .*?</tr>", table, re.DOTALL)
    ]
    assert rows[2] == ["power 1", "8", "200", "2"]
    assert rows[5] == ["power 2", "9", "250", "2.25"]
    plain = page(shown(Curve("Sweep", "IS", "FID", LINES)))
    assert "Data points" not in plain
    assert "<use " not in re.sub(r"<g[^>]*>\s*<use [^>]*stroke: #000000[^>]*>", "", plain)  # but the axes' ticks


def test_labels_of_a_line_are_as_many_as_its_points():
    with pytest.raises(ValueError, match="shorter"):
        curve_svg(Curve("Sweep", "IS", "FID", LINES, markers=True, labels={"power 1": ["4"]}))


def test_faint_points_stand_behind_a_line():
    curve = Curve(
        NASTY, "x", NASTY, LINES, markers=True, labels=LABELS, scatter={"power 1": LINES["power 1"]}, wide=True
    )
    svg = curve_svg(curve)
    faint = re.findall(r'<g id="PathCollection.*?</g>\s*</g>', svg, re.DOTALL)
    assert sum(len(re.findall("<use ", group)) for group in faint) == 3
    assert svg == curve_svg(curve)
    texts = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert NASTY in texts
    assert [texts.count(label) for label in ("4", "8", "16", "5", "9")] == [1] * 5
