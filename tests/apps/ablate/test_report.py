import dataclasses
import io
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from rich.console import Console

from alitok.apps.ablate.findings import findings
from alitok.apps.ablate.markdown import escaped
from alitok.apps.ablate.matched import beaten, curves_of, matched_arms
from alitok.apps.ablate.numbers import Ablation, CellNumbers, Summary, read_numbers
from alitok.apps.ablate.plot import plot
from alitok.apps.ablate.report import print_ablation, write_ablation
from alitok.apps.ablate.table import COLUMNS, Column, Shown, arms_table, number, shown, sizes_table
from alitok.core.errors import AlitokError

NASTY = "<script>alert('x')</script>\"'& |`*_ü"
NOTHING = "\N{EN DASH}"
ARMS = {"A": "bidirectional decoder", "B": "causal decoder", "F": "D and a second decoder"}


def cell(arm="A", codebook_size=256, seed=0, images=20, **changes):
    """Bits and PSNR rise with the codebook; B takes 10 bits fewer at every PSNR, F has one codebook."""
    random = np.random.default_rng([seed, codebook_size, ord(arm[0])])
    step = math.log2(codebook_size / 256)
    psnr, bits = 22.0 + step + 0.05 * seed, 90.0 + 10 * step + seed - 10 * (arm == "B")
    psnrs, codes = random.normal(size=(2, images))
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(CellNumbers)), 0.5)
    numbers |= {"arm": arm, "codebook_size": codebook_size, "seed": seed, "psnr": psnr, "bits": bits, "grid_bits": bits}
    numbers |= {"train_bits": bits, "codebook_perplexity": codebook_size / 2, "tokenizer_seconds": 1200.0}
    numbers |= {
        "image_psnr": tuple((psnr + psnrs - psnrs.mean()).tolist()),
        "image_bits": tuple((bits + codes - codes.mean()).tolist()),
    }
    return CellNumbers(**{**numbers, **changes})


def ablation(cells, **changes):
    shared = {"data": "digits", "preset": "tiny", "image_size": 32, "patch_size": 8, "codebook_size": 256}
    return Ablation(**{**shared, "arms": ARMS, "cells": tuple(cells), "settings": {"torch": "2.11"}, **changes})


def whole(seeds=3, **changes):
    cells = [cell(arm, size, seed) for seed in range(seeds) for arm in "AB" for size in (128, 256, 512)]
    return ablation([*cells, *(cell("F", 256, seed, accuracy=0.75) for seed in range(seeds))], **changes)


def sheets(arms=ARMS):
    random = np.random.default_rng(0)
    return {name: random.integers(0, 256, (8, 3, 32, 32), np.uint8) for name in ("originals", *arms)}


def written(tmp_path, made, **changes):
    warnings = write_ablation(tmp_path, made, **{"command": "alitok ablate --data digits", **changes})
    return warnings, (tmp_path / "report.html").read_text(), (tmp_path / "table.md").read_text()


def markdown_rows(text, heading):
    part = text[text.index(f"## {heading}\n") :]
    lines = part[part.index("|---") :].split("\n\n")[0].split("\n")[1:]
    return {(cells := [entry.strip() for entry in line.strip("|").split(" | ")])[0]: cells[1:] for line in lines}


def test_all_four_files_are_written_whole(tmp_path, read):
    made = whole()
    warnings, page, text = written(tmp_path, made, sheets=sheets())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ablation.json", "plot.svg", "report.html", "table.md"]
    assert read_numbers(tmp_path / "ablation.json") == made
    assert warnings == findings(made).warnings
    read(page).check_alone()
    for sentence in (*warnings, *findings(made).steps, *findings(made).matched_sentences, *findings(made).orders):
        assert sentence in re.sub(r"\s+", " ", read(page).text)
        assert escaped(sentence) in text


def test_the_table_holds_means_and_spreads(tmp_path):
    accuracies = [0.2, 0.3, 0.4]
    cells = [cell("A", seed=seed, accuracy=value, sample_distance=0.01234) for seed, value in enumerate(accuracies)]
    _, _, text = written(tmp_path, ablation([*cells, cell("B", accuracy=0.125, seed=7)]))
    rows = markdown_rows(text, "Arms")
    heads = [column.head for column in COLUMNS.values()] + ["seeds"]
    first = dict(zip(heads, rows["**A** bidirectional decoder"], strict=True))
    assert first["accuracy, %"] == "30.0 ± 10.0"
    assert first["bits an image"] == "91.0 ± 1.0"
    assert first["PSNR, dB"] == "22.05 ± 0.05"
    assert first["sample distance"] == "0.0123 ± 0.0000"
    assert first["seconds"] == "1,200 ± 0"
    assert first["seeds"] == "3"
    second = dict(zip(heads, rows["**B** causal decoder"], strict=True))
    assert (second["accuracy, %"], second["seeds"]) == ("12.5", "1")
    assert rows["**F** D and a second decoder"] == [*[NOTHING] * (len(heads) - 1), "0"]


def test_numbers_that_were_not_measured_have_no_column_and_nan_no_place_in_a_mean():
    made = ablation([cell("A", influence_future=None, psnr=math.nan), cell("A", seed=1, influence_future=None)])
    table = arms_table(made)
    assert "later patches, %" not in table.columns
    values = dict(zip(table.columns, table.rows[0].values, strict=True))
    assert values["PSNR, dB"] == Shown("22.05")
    assert "later patches, %" in arms_table(ablation([cell("A", influence_future=0.25)])).columns


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (1234.56, 1, False, "1,234.6"),
        (-0.04, 1, True, "0.0"),
        (0.04, 1, True, "0.0"),
        (0.06, 1, True, "+0.1"),
        (-3.0, 0, False, "-3"),
        (math.inf, 2, True, "+inf"),
    ],
)
def test_numbers_are_rounded_without_a_sign_of_nothing(value, digits, signed, text):
    assert number(value, digits, signed=signed) == text


def test_three_digits_count_where_a_number_has_no_size_of_its_own():
    column = Column("distance", None)
    found = [shown(Summary(value, None, 1), column).text for value in (1234.0, 12.34, 0.01234, 0.0)]
    assert found == ["1,234", "12.3", "0.0123", "0"]
    assert shown(Summary(12.34, 0.567, 2), column).text == "12.3 ± 0.6"


def test_codebooks_of_other_sizes_have_a_table_where_there_are_any():
    table = sizes_table(whole())
    assert [row.name for row in table.rows] == [f"{arm} {size}" for arm in "AB" for size in (128, 256, 512)]
    assert table.rows[0].values[0].text == "81.0 ± 1.0"
    assert sizes_table(ablation([cell("A"), cell("B")])) is None


def test_arms_are_compared_at_equal_fidelity():
    found = {(entry.first, entry.second): entry for entry in matched_arms(whole(), [("A", "B"), ("B", "F")])}
    assert list(found) == [("A", "B"), ("A", "F"), ("B", "F")]
    apart = found["A", "B"].comparison
    assert apart.difference.value == pytest.approx(-10)
    assert apart.difference.trainings == pytest.approx((-10, -10))
    assert found["A", "B"].sentence.startswith("B takes 10.0 bits an image fewer than A (-11.0 %) at equal PSNR (21.00")
    assert "no difference" in found["A", "F"].sentence
    assert "F takes 10.0 bits an image more than B" in found["B", "F"].sentence


def test_arms_that_never_meet_have_a_reason_and_no_number(tmp_path):
    cells = [cell("A", size) for size in (128, 256, 512)]
    far = cell("F", bits=70.0, psnr=30.0, image_psnr=(), image_bits=())
    (found,) = matched_arms(ablation([*cells, far]), [])
    assert found.sentence == (
        "A and F cannot be compared at equal PSNR: no PSNR in common in any seed: the first has 21.00 to 23.00 dB, the "
        "second 30.00 dB; but in every seed, F has more PSNR than any codebook of A for fewer bits than the nearest of "
        "them takes (30.0 bits an image fewer)."
    )
    dear = dataclasses.replace(far, bits=101.0)
    assert "but in every seed" not in matched_arms(ablation([*cells, dear]), [])[0].sentence
    _, _, text = written(tmp_path, ablation([*cells, far]))
    rows = markdown_rows(text, "At equal fidelity")
    assert rows["**A to F** no PSNR in common in any seed"] == [*[NOTHING] * 6, "0"]


def test_seeds_that_do_not_meet_are_told():
    cells = [cell("A", size, seed) for seed in range(3) for size in (128, 256, 512)]
    others = [cell("F", seed=0), cell("F", seed=1), cell("F", seed=2, psnr=30.0, image_psnr=(), image_bits=())]
    (found,) = matched_arms(ablation([*cells, *others]), [])
    assert found.sentence.endswith(" Without 1 of 3 seeds, which have no PSNR in common.")


def test_one_seed_has_the_interval_of_its_images_and_no_bold_row(tmp_path):
    made = whole(seeds=1)
    _, page, text = written(tmp_path, made)
    assert "interval over images alone, of one training each" in text
    assert "not that another training comes out differently" in text
    assert "over trainings:" not in text
    assert 'class="measured"' not in page
    rows = markdown_rows(text, "At equal fidelity")
    assert rows["**A to B**"][4] == NOTHING
    assert " to " in rows["**A to B**"][5]
    assert 'class="measured"' in written(tmp_path, whole())[1]


def test_without_curves_there_is_no_comparison_at_equal_fidelity(tmp_path):
    _, page, text = written(tmp_path, ablation([cell("A"), cell("B")]))
    assert "At equal fidelity" not in text + page
    assert "Codebooks of other sizes" not in text + page


def test_points_that_another_codebook_beats_are_told():
    made = ablation([cell("A", 256), cell("A", 512, psnr=21.5, image_psnr=(), image_bits=()), cell("A", 128)])
    assert beaten(made) == ["A with 512 codes, seed 0"]
    assert any(warning.startswith("Curves leave out A with 512") for warning in findings(made).warnings)
    assert [point.codebook_size for point in curves_of(made, "A")[0].frontier] == [128, 256]


def test_an_unfinished_ablation_is_reported_as_far_as_it_came(tmp_path, read):
    for made in (
        ablation([]),
        ablation([cell("B", 512)]),
        ablation([cell("A", psnr=math.nan, image_psnr=(), image_bits=())]),
    ):
        warnings, page, _ = written(tmp_path, made)
        read(page).check_alone()
        assert warnings
    assert written(tmp_path, ablation([]))[0] == ["No cell is finished yet."]
    assert "no cell is finished" in plot(ablation([]))


def test_every_text_is_escaped(tmp_path, read):
    made = whole(data=NASTY, settings={NASTY: NASTY}, arms={"A": NASTY, "B": "causal", "F": "second"})
    _, page, text = written(tmp_path, made, command=f"alitok ablate {NASTY}", sheets=sheets())
    assert "<script" not in page.lower()
    read(page).check_alone()
    assert re.sub(r"\s+", " ", read(page).text).count(NASTY) >= 6
    outside = re.sub(r"(?m)^    .*$", "", text)  # code is taken as it stands
    assert "<script" not in outside
    for row in re.findall(r"(?m)^\|.*", outside):
        assert len(re.findall(r"(?<!\\)\|", row)) in (17, 9, 10, 11)
    ElementTree.parse(tmp_path / "plot.svg")


def test_markdown_has_no_signs_but_those_meant():
    assert escaped("a|b *c* `d` [e](f) <g> & _h_ i_j\n k ~l~ A < B \\") == (
        r"a\|b \*c\* \`d\` \[e\](f) &lt;g> &amp; \_h\_ i_j k \~l\~ A < B \\"
    )


def test_the_plot_shows_every_training_and_labels_every_mean(tmp_path):
    made = whole()
    written(tmp_path, made)
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for label in ("A 128", "A 256", "A 512", "B 128", "B 256", "B 512", "F"):
        assert texts.count(label) == 1
    for arm, title in ARMS.items():
        assert f"{arm}: {title}" in texts
    svg = (tmp_path / "plot.svg").read_text()
    faint = re.findall(r'<g id="PathCollection.*?</g>\s*</g>', svg, re.DOTALL)
    assert sum(len(re.findall("<use ", group)) for group in faint) == len(made.cells)
    strong = {colour: len(re.findall(f'<use [^>]*style="fill: {colour}; stroke: #ffffff', svg)) for colour in
              ("#0072b2", "#d55e00", "#009e73")}  # fmt: skip
    assert strong == {"#0072b2": 3 + 1, "#d55e00": 3 + 1, "#009e73": 1 + 1}  # and one in the legend
    assert plot(made) == plot(made) == svg


def test_an_arm_with_one_finished_training_is_drawn_once():
    svg = plot(ablation([cell("A")]))
    assert "PathCollection" not in svg


def test_reconstructions_stand_in_the_same_places(tmp_path, read):
    given = sheets(("B", "A"))
    _, page, _ = written(tmp_path, whole(), sheets=given)
    found = read(page)
    assert [sheet["alt"] for sheet in found.sheets()] == [
        "8 images: Held-out images",
        "8 images: A: bidirectional decoder",
        "8 images: B: causal decoder",
    ]
    for name, pixels in zip(("originals", "A", "B"), found.pixels(), strict=True):
        # Six in a row, each pixel twice as large, two white ones between.
        assert pixels.shape == (3, 2 * 66 + 2, 6 * 66 + 2)
        assert np.array_equal(pixels[:, 68:132:2, 2 + 66 : 66 + 66 : 2], given[name][7])
    assert read(written(tmp_path, whole())[1]).sheets() == []


def test_the_terminal_shows_the_table_and_the_warnings():
    console = Console(file=io.StringIO(), width=200)
    print_ablation(console, whole(seeds=2))
    text = console.file.getvalue()
    assert re.search(r"A +50\.0 ± 0\.0 +90\.5 ± 0\.7 +22\.02 ± 0\.04", text)
    assert "Note: Fewer than 3 seeds" in text
    assert "B takes 10.0 bits an image fewer than A" in text
    console = Console(file=io.StringIO(), width=200)
    print_ablation(console, ablation([], arms={"[red]A": "[bold]"}))
    assert "[red]A" in console.file.getvalue()


def test_numbers_of_the_file_are_plain_json(tmp_path):
    written(tmp_path, ablation([cell("A", sample_distance=math.nan)]))
    data = json.loads((tmp_path / "ablation.json").read_text(), parse_constant=pytest.fail)
    assert data["cells"][0]["sample_distance"] == "nan"


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_told(tmp_path, monkeypatch, library):
    for name in {library, *(name for name in sys.modules if name.split(".")[0] == library)}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AlitokError, match=rf"{library}.*pip install 'alitok\[demo\]'"):
        write_ablation(tmp_path, whole(), command="alitok ablate")
