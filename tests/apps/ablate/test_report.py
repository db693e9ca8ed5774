import io
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from rich.console import Console

from alitok.apps.ablate.report import make_report, print_report, write_report
from alitok.core.errors import AlitokError

NASTY = "<script>alert('x')</script>\"'& |`*_ü"


def images(arms):
    random = np.random.default_rng(0)
    return {name: random.integers(0, 256, (8, 3, 32, 32), np.uint8) for name in ("originals", *arms)}


@pytest.fixture
def written(tmp_path, read):
    """Writes a report; returns it, its page and its Markdown."""

    def write(made, **changes):
        report = write_report(tmp_path, made, **{"command": "alitok ablate --data digits", **changes})
        page = read((tmp_path / "report.html").read_text())
        page.check_alone()
        return report, page, (tmp_path / "table.md").read_text()

    return write


def test_all_four_files_hold_all_numbers_and_warnings(written, whole, tmp_path):
    made = whole(seeds=2)
    report, page, text = written(made, reconstructions=images("ABF"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ablation.json", "plot.svg", "report.html", "table.md"]
    assert len(json.loads((tmp_path / "ablation.json").read_text())["cells"]) == len(made.cells)
    assert any(warning.startswith("Fewer than 3 seeds") for warning in report.warnings)
    headings = "Codes, and how predictable they are", "Images, reconstructed and sampled", "PSNR against bits per image"
    more = "At equal PSNR", "Effect of each change", "Codebook sizes", "Beside the paper", "How to read it", "Settings"
    shown = re.sub(r"\s+", " ", page.text)
    for heading in (*headings, *more):
        assert f"## {heading}\n" in text
        assert f"<h2>{heading}</h2>" in page.source
    parts = "90.5 ± 0.7", "-10.0 to -10.0", "-11.0", "bidirectional decoder", "Order of the arms"
    for part in (*report.warnings, *parts):
        assert part in text
        assert part in shown or part == "90.5 ± 0.7"
    assert 'class="strong"' in page.source
    assert "![PSNR against bits per image](plot.svg)" in text


def test_sections_without_numbers_are_left_out(written, cell, ablation):
    _, page, text = written(ablation(cell("A"), cell("B")))
    for heading in ("At equal PSNR", "Codebook sizes"):
        assert heading not in re.findall("(?m)^## (.*)$", text)
        assert f"<h2>{heading}</h2>" not in page.source
    assert page.sheets() == []


def test_an_unfinished_ablation_has_a_report(written, cell, ablation):
    for cells in ([], [cell("B", 512)], [cell("A", psnr=math.nan)]):
        assert written(ablation(*cells))[0].warnings
    report, page, _ = written(ablation())
    assert report.warnings == ("No cell is finished yet.",)
    assert "no data" in page.text


def test_every_text_is_escaped(written, whole, tmp_path):
    made = whole(data=NASTY, settings={NASTY: NASTY}, arms={"A": NASTY, "B": "causal", "F": "second"})
    _, page, text = written(made, command=f"alitok ablate {NASTY}", reconstructions=images("ABF"))
    assert "<script" not in page.source.lower()
    assert re.sub(r"\s+", " ", page.text).count(NASTY) >= 6
    outside = re.sub(r"(?m)^    .*$", "", text)  # code is taken as it is
    assert "<script" not in outside
    ElementTree.parse(tmp_path / "plot.svg")


def test_the_plot_shows_every_training_and_labels_every_mean(written, whole, tmp_path):
    made = whole()
    written(made)
    svg = (tmp_path / "plot.svg").read_text()
    root = ElementTree.fromstring(svg)
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for label in ("A 128", "A 256", "A 512", "B 128", "B 256", "B 512", "F"):
        assert texts.count(label) == 1
    for arm, title in made.arms.items():
        assert f"{arm}: {title}" in texts
    faint = re.findall(r'<g id="PathCollection.*?</g>\s*</g>', svg, re.DOTALL)
    assert sum(len(re.findall("<use ", group)) for group in faint) == len(made.cells)
    written(made)
    assert (tmp_path / "plot.svg").read_text() == svg


def test_a_single_training_is_one_point(written, cell, ablation, tmp_path):
    written(ablation(cell("A")))
    assert "PathCollection" not in (tmp_path / "plot.svg").read_text()


def test_reconstructions_are_in_the_same_places(written, whole):
    given = images("BA")
    page = written(whole(), reconstructions=given)[1]
    assert [sheet["alt"] for sheet in page.sheets()] == [
        "8 images: Validation images",
        "8 images: A: bidirectional decoder",
        "8 images: B: causal decoder",
    ]
    for name, pixels in zip(("originals", "A", "B"), page.pixels(), strict=True):
        corner = given[name][7]  # the second of the second row
        assert pixels.shape[2] > pixels.shape[1] > 2 * corner.shape[1]
        scale = (pixels.shape[2] - 7 * 2) // 6 // 32
        side = 32 * scale + 2
        assert np.array_equal(pixels[:, 2 + side : 2 * side : scale, 2 + side : 2 * side : scale], corner)


def test_the_terminal_shows_arms_comparisons_and_warnings(whole, ablation):
    made = whole(seeds=2)
    console = Console(file=io.StringIO(), width=200)
    print_report(console, made, make_report(made, "", {}))
    text = console.file.getvalue()
    assert re.search(r"A +50\.0 ± 0\.0 +90\.5 ± 0\.7 +22\.02 ± 0\.04", text)
    assert "Note: Fewer than 3 seeds" in text
    assert re.search(r"A to B +21\.00 to 23\.05 +-10\.0 +-11\.1", text)
    made = ablation(arms={"[red]A": "[bold]"})
    console = Console(file=io.StringIO(), width=200)
    print_report(console, made, make_report(made, "", {}))
    assert "[red]A" in console.file.getvalue()


def test_the_numbers_are_strict_json(written, cell, ablation, tmp_path):
    written(ablation(cell("A", sample_distance=math.nan)))
    data = json.loads((tmp_path / "ablation.json").read_text(), parse_constant=pytest.fail)
    assert data["cells"][0]["sample_distance"] == "nan"


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, library, whole):
    for name in {library, *(name for name in sys.modules if name.split(".")[0] == library)}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AlitokError, match=rf"{library}.*pip install 'alitok\[demo\]'"):
        write_report(tmp_path, whole(), command="alitok ablate")
