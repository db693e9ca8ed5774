import dataclasses
import html
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from alitok.apps.evaluate.page import (
    EvaluationReport,
    Metric,
    RankedReconstructions,
    write_evaluation,
)
from alitok.core.errors import AlitokError
from alitok.core.images import grid
from alitok.metrics.inception import OFFICIAL
from alitok.recipes.published import Generated, Published, PublishedRow, applies, generation_table, reconstruction_table
from alitok.report.curves import Curve
from alitok.report.sheets import ERROR_LIMIT, ClassSamples, Neighbours, error_map, error_scale

NASTY = "<script>alert('x')</script>\"'& ü"
NOTHING = "\N{EN DASH}"
HEADINGS = (
    "Warnings",
    "Numbers",
    "Published",
    "Curves",
    "Samples by class",
    "copies",
    "Reconstructions",
    "Worst reconstructions",
    "Best reconstructions",
    "Protocol",
)


def images(count, seed, side=16):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def ranked(seed, stages=("stage 1", "stage 2")):
    rebuilt = {stage: images(2, seed + 1 + number) for number, stage in enumerate(stages)}
    return RankedReconstructions(images(2, seed), rebuilt, (f"first {NASTY} 12.5 dB", "second 13.5 dB"), "by " + NASTY)


def example(**changes):
    report = EvaluationReport(
        title="an evaluation " + NASTY,
        summary="What was measured " + NASTY,
        command="alitok evaluate " + NASTY,
        warnings=("Only 2,000 samples " + NASTY, "The network is not Inception."),
        columns=("stage 1", "stage 2 " + NASTY),
        metrics=(
            Metric(
                "rfid", "rFID " + NASTY, ("0.911", "0.862"), ("0.90 to 0.92 (95 %)", ""), "lower is better " + NASTY
            ),
            Metric("psnr", "PSNR", ("21.31 dB", "21.72 dB"), ("", "21.70 to 21.74"), "higher is better"),
            Metric("codebook_use", "codebook use", ("0.991", "")),
        ),
        published=Published(
            "Published " + NASTY,
            ("gFID " + NASTY, "IS"),
            (PublishedRow("here " + NASTY, ("1.45", "317.0"), measured=True), PublishedRow("MAR-H", ("1.55", "303.7"))),
            "Comparable " + NASTY,
        ),
        samples=[ClassSamples("tench " + NASTY, images(7, 3)), ClassSamples("none", images(0, 5))],
        samples_note="By seed " + NASTY,
        neighbours=Neighbours(
            images(3, 6), images(3, 7), np.array([0.1, 0.2, 0.0625]), "the distance " + NASTY, "Held out: 0.3."
        ),
        chosen=ranked(30),
        worst=ranked(10),
        best=ranked(20),
        curves=[
            Curve(
                "FID against IS " + NASTY,
                "Inception Score",
                "FID " + NASTY,
                {"power " + NASTY: ([250.25, 301.5], [1.625, 1.375]), "power 2": ([240.0], [1.75])},
                markers=True,
                labels={"power " + NASTY: ["g 4 " + NASTY, "g 16"]},
                label_name="guidance scale " + NASTY,
            )
        ],
        protocol={"reference " + NASTY: "VIRTUAL_imagenet256_labeled.npz " + NASTY, "seed": "7"},
    )
    return dataclasses.replace(report, **changes)


def written(tmp_path, **changes):
    write_evaluation(tmp_path / "report.html", example(**changes))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def texts(value):
    """Every string in a report, keys of dictionaries included."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from texts(getattr(value, field.name))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from texts(key)
            yield from texts(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from texts(entry)


def test_nothing_is_fetched_or_run(tmp_path, read):
    text = written(tmp_path)
    read(text).check_alone()
    assert "default-src 'none'; img-src data:" in html.unescape(text)


def test_every_text_and_number_is_shown_whole_and_escaped(tmp_path, read):
    report, text = example(), written(tmp_path)
    assert "<script" not in text.lower()
    seen = re.sub(r"\s+", " ", read(text).text)
    given = [entry for entry in texts(report) if entry]
    assert len(given) > 50
    for entry in given:
        assert entry in seen, entry
    for distance in ("0.100", "0.200", "0.062", "250.2", "301.5", "1.625", "1.375", "1.75"):
        assert distance in seen


def test_columns_stand_side_by_side_with_their_intervals(tmp_path):
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", written(tmp_path), re.DOTALL)
    cells = [plain(cell) for cell in re.findall(r"<td.*?</td>", rows[0], re.DOTALL)]
    assert cells[0] == "stage 1" + "0.911" + "0.90 to 0.92 (95 %)"
    assert cells[1] == "stage 2 " + NASTY + "0.862"
    cells = [plain(cell) for cell in re.findall(r"<td.*?</td>", rows[1], re.DOTALL)]
    assert cells[:2] == ["stage 1" + "21.31 dB", "stage 2 " + NASTY + "21.72 dB" + "21.70 to 21.74"]
    cells = [plain(cell) for cell in re.findall(r"<td.*?</td>", rows[2], re.DOTALL)]
    assert cells[:2] == ["stage 1" + "0.991", "stage 2 " + NASTY + NOTHING]


def plain(fragment):
    parser, found = HTMLParser(), []
    parser.handle_data = found.append
    parser.feed(fragment)
    parser.close()
    return "".join(found)


def test_a_value_for_each_column_or_nothing_is_written(tmp_path):
    with pytest.raises(AssertionError, match="gfid"):
        written(tmp_path, metrics=(Metric("gfid", "gFID", ("1.44",)),))
    assert list(tmp_path.iterdir()) == []


def test_images_are_shown_with_the_very_pixels(tmp_path, read):
    report, page = example(), read(written(tmp_path))
    near = report.neighbours
    expected = [grid(report.samples[0].images, 5), grid(np.concatenate([near.samples, near.nearest]), 3)]
    for shown in (report.chosen, report.worst, report.best):
        expected.append(None)  # the scale of errors
        for number, original in enumerate(shown.originals):
            expected.append(original)
            for made in (shown.rebuilt["stage 1"][number], shown.rebuilt["stage 2"][number]):
                expected += [made, error_map(original, made)]
    for sheet, found, pixels in zip(page.sheets(), page.pixels(), expected, strict=True):
        assert sheet["alt"]
        if pixels is None:
            continue
        assert np.array_equal(found, pixels)
        scale = int(sheet["width"]) // pixels.shape[2]
        assert scale >= 4
        assert sheet["class"] == "enlarged"
        assert (int(sheet["height"]), int(sheet["width"])) == (pixels.shape[1] * scale, pixels.shape[2] * scale)
    alts = [sheet["alt"] for sheet in page.sheets()]
    assert alts[3:8] == [
        "image 1",
        "image 1 through stage 1",
        "error of stage 1 on image 1",
        "image 1 through stage 2",
        "error of stage 2 on image 1",
    ]


def test_large_images_are_not_made_coarse(tmp_path, read):
    """Those that are not enlarged are scaled down smoothly where the screen is narrow."""
    page = read(written(tmp_path, samples=[ClassSamples("x", images(2, 0, 128))]))
    assert page.sheets()[0]["width"] == str(2 * 129 + 1)
    assert "class" not in page.sheets()[0]


def test_error_map_is_the_mean_absolute_error_as_a_colour():
    from matplotlib import colormaps

    original, made = images(1, 1)[0], images(1, 2)[0]
    original[:, 0, 0] = made[:, 0, 0] = 77
    original[:, 0, 1], made[:, 0, 1] = (0, 255, 10), (255, 0, 10)  # opposite differences do not cancel
    original[:, 0, 2], made[:, 0, 2] = (100, 100, 100), (110, 90, 100)
    found = error_map(original, made)
    assert found.shape == original.shape
    assert found.dtype == np.uint8
    for row in range(16):
        for column in range(16):
            errors = [abs(int(original[c, row, column]) - int(made[c, row, column])) for c in range(3)]
            share = min(1.0, sum(errors) / 3 / 255 / ERROR_LIMIT)
            colour = np.array(colormaps["magma"](round(share * 255))[:3]) * 255
            assert np.abs(found[:, row, column] - colour).max() < 1
    assert found[:, 0, 0].max() < 10  # black
    assert found[:, 0, 1].min() > 180  # the brightest
    assert np.array_equal(found, error_map(made, original))


def test_error_maps_have_one_scale_that_the_page_states(tmp_path, read):
    # A small error beside no larger one is not stretched, and stands where the strip of colours has it.
    original = np.zeros((3, 4, 4), np.uint8)
    faint, strong = error_map(original, original + 16), error_map(original, original + 200)
    page = read(written(tmp_path))
    strip = page.pixels()[2][:, 0]
    assert np.array_equal(faint[:, 0, 0], strip[:, round(16 / 255 / 0.25 * 255)])
    assert np.array_equal(strong[:, 0, 0], strip[:, -1])
    assert strip.astype(float).mean(0).argmax() == strip.shape[1] - 1
    assert (np.diff(strip.astype(float).T @ [0.299, 0.587, 0.114]) > -1).all()  # brightness tells the order
    assert "0.25 or more" in page.text
    assert error_scale().alt == "colours of errors, from 0 to 0.25"


def test_a_sole_decoder_has_three_images_a_row(tmp_path, read):
    page = read(written(tmp_path, chosen=ranked(0, ("stage 1",)), worst=None, best=None, samples=[], neighbours=None))
    assert len(page.sheets()) == 1 + 2 * 3
    assert "error of stage 2" not in page.text


def test_missing_sections_leave_no_headings(tmp_path, read):
    full = headings(written(tmp_path))
    for heading in HEADINGS:
        assert sum(heading in found for found in full) == 1
    bare = written(
        tmp_path,
        warnings=(),
        metrics=(),
        published=None,
        samples=[],
        neighbours=None,
        chosen=None,
        worst=None,
        best=None,
        curves=[],
        protocol={},
    )
    assert headings(bare) == []
    assert "or more" not in read(bare).text
    assert read(bare).sheets() == []
    assert not re.search(r"<section|<table|<svg", bare)


def headings(text):
    return [html.unescape(found) for found in re.findall(r"<h2>(.*?)</h2>", text)]


def test_every_point_of_a_sweep_is_marked_labelled_and_told(tmp_path, read):
    lines = {"power 1": ([100.0, 200.0, 300.0], [3.0, 2.0, 2.5]), "power 2": ([150.0, 250.0], [2.75, 2.25])}
    labels = {"power 1": ["4", "8", "16"], "power 2": ["5", "9"]}
    text = written(tmp_path, curves=[Curve("Sweep", "IS", "FID", lines, markers=True, labels=labels)])
    svg = re.search(r"<svg.*?</svg>", text, re.DOTALL)[0]
    # A marker is defined once a line and once in the legend, and used at each point.
    assert len(re.findall(r"<use [^>]*style=\"fill: #0072b2", svg)) == 3 + 1
    assert len(re.findall(r"<use [^>]*style=\"fill: #d55e00", svg)) == 2 + 1
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    for label in ("4", "8", "16", "5", "9"):
        assert label in shown
    table = text[text.index("The numbers of this plot") :]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr><th scope=\"row\">.*", table)]
    assert rows[1] == ["power 1", "8", "200", "2"]
    assert rows[4] == ["power 2", "9", "250", "2.25"]
    plain_curve = written(tmp_path, curves=[Curve("Sweep", "IS", "FID", lines)])
    assert "The numbers of this plot" not in plain_curve
    assert "<use " not in re.sub(r"<g[^>]*>\s*<use [^>]*stroke: #000000[^>]*>", "", plain_curve)  # but the axes' ticks


def test_labels_of_a_line_are_as_many_as_its_points(tmp_path):
    curve = Curve("Sweep", "IS", "FID", {"a": ([1.0, 2.0], [1.0, 2.0])}, markers=True, labels={"a": ["4"]})
    with pytest.raises(ValueError, match="longer"):
        written(tmp_path, curves=[curve])


def test_same_report_same_file(tmp_path):
    assert written(tmp_path) == written(tmp_path)


def test_tables_scroll_where_the_keyboard_reaches(tmp_path, read):
    frames = [attributes for _, attributes in read(written(tmp_path)).elements if attributes.get("class") == "scroll"]
    assert len(frames) == 4
    assert all(frame["tabindex"] == "0" and frame["role"] == "region" and frame["aria-label"] for frame in frames)


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_told_and_nothing_written(tmp_path, monkeypatch, library):
    for name in {library, *(name for name in sys.modules if name.split(".")[0] == library)}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AlitokError, match=rf"{library}.*pip install 'alitok\[demo\]'"):
        write_evaluation(tmp_path / "report.html", example())
    assert list(tmp_path.iterdir()) == []


def test_published_numbers_of_generators():
    table = generation_table()
    rows = {row.name: dict(zip(table.columns, row.values, strict=True)) for row in table.rows}
    assert list(table.columns[1:4]) == ["gFID, no guidance", "gFID, guided", "IS, guided"]
    for name, plain_gfid, gfid, score, speed in (
        ("AliTok-B", "2.40", "1.44", "319.5", ""),
        ("AliTok-L", "1.98", "1.38", "326.2", "10.1"),
        ("AliTok-XL", "1.88", "1.28", "306.3", "6.3"),
        ("LightningDiT", "2.17", "1.35", "295.3", "0.6"),
        ("RAR-XXL", "3.26", "1.48", "326.0", "5.0"),
        ("MAR-H", "2.35", "1.55", "303.7", "0.3"),
        ("VAR-d30", "", "1.92", "323.1", ""),
        ("LlamaGen-3B", "9.38", "2.18", "263.3", ""),
    ):
        assert list(rows[name].values())[1:] == [plain_gfid, gfid, score, speed]
    assert not any(row.measured for row in table.rows)
    for part in ("50,000 samples", "ADM", "official weights"):
        assert part in table.comparability


def test_what_was_measured_stands_first_and_says_what_was_otherwise():
    table = generation_table(Generated("this evaluation", gfid=1.4449, inception_score=318.26), ("10,000 samples", "x"))
    assert table.rows[0] == PublishedRow("this evaluation", ("", "", "1.44", "318.3", ""), measured=True)
    assert sum(row.measured for row in table.rows) == 1
    assert table.comparability.endswith("Here it was otherwise: 10,000 samples; x.")


def test_published_numbers_of_reconstruction():
    table = reconstruction_table({"here, stage 1": 0.914, "here, stage 2": 0.856})
    assert table.rows[:2] == (
        PublishedRow("here, stage 1", ("", "", "0.91"), measured=True),
        PublishedRow("here, stage 2", ("", "", "0.86"), measured=True),
    )
    assert [row.values for row in table.rows[2:]] == [
        ("5.4 %", "2.96", "0.98"),
        ("11.2 %", "", "1.56"),
        ("10.7 %", "1.88", "1.07"),
        ("9.7 %", "1.86", "1.01"),
        ("10.2 %", "1.82", "1.02"),
        ("10.5 %", "1.47", "0.91"),
        ("10.5 %", "1.44", "0.86"),
    ]
    assert "validation" in table.comparability
    assert "otherwise" not in table.comparability


def test_published_numbers_apply_to_their_kind_alone():
    kind = {"classes": 1000, "image_size": 256, "network": OFFICIAL}
    assert applies(**kind)
    for change in ({"classes": 10}, {"image_size": 512}, {"network": "classifier-1a2b"}):
        assert not applies(**kind | change)
