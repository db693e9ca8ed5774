import dataclasses
import html
import re
import sys

import numpy as np
import pytest

from alitok.core.errors import AlitokError
from alitok.core.images import grid
from alitok.report.curves import Curve
from alitok.report.page import duration, significant
from alitok.report.sheets import ClassSamples, Neighbours, Reconstructions
from alitok.run.report import Report, Stage, write_report

NASTY = "<script>alert('x')</script>\"'& ü"


def images(count, seed, side=16):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def example(**changes):
    report = Report(
        title="a run " + NASTY,
        summary="What was done " + NASTY,
        command="alitok demo --data " + NASTY,
        configuration="[stage1]\nname = '</pre>" + NASTY + "'\n",
        numbers=[("psnr_stage2", "22.71", "dB"), ("codebook_use", "0.984", "share " + NASTY)],
        stages=[Stage("generator " + NASTY, 12345, 312.4, 0.0213, 3004.7, 1234567)],
        reconstructions=Reconstructions(images(6, 0), images(6, 1), images(6, 2), "Held out " + NASTY),
        samples=[
            ClassSamples("zero", images(7, 3)),
            ClassSamples(NASTY, images(2, 4)),
            ClassSamples("none", images(0, 5)),
        ],
        neighbours=Neighbours(images(6, 6), images(6, 7), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.0625])),
        curves=[
            Curve(
                "Loss " + NASTY, "step", "nats " + NASTY, {NASTY: ([0, 1], [3.0, 2.0]), "$b_$": ([0, 1], [4.0, 1.0])}
            ),
            Curve("Log", "step", "loss", {"a": ([0, 1, 2], [100.0, 1.0, 0.01])}, log_y=True),
        ],
        environment={"device": "cpu " + NASTY, "torch": "2.15"},
    )
    return dataclasses.replace(report, **changes)


def written(tmp_path, **changes):
    write_report(tmp_path / "report.html", example(**changes))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_or_run(tmp_path, read):
    page = read(written(tmp_path))
    assert page.sheets(), "images, which could be fetched, are there"
    page.check_alone()


def test_every_text_is_escaped_and_shown_whole(tmp_path, read):
    text = written(tmp_path)
    assert "<script" not in text.lower()
    seen = read(text).text
    for given in (
        "a run ",
        "What was done ",
        "--data ",
        "</pre>",
        "share ",
        "generator ",
        "Held out ",
        "cpu ",
        "Loss ",
        "nats ",
    ):
        assert given + NASTY in seen
    assert seen.count(NASTY) >= 13  # and the title of the page, the class, the line of the legend
    attributes = [attributes for _, attributes in read(text).elements]
    assert f"2 samples of class {NASTY}" in [entry.get("alt") for entry in attributes]
    assert any(NASTY in entry.get("aria-label", "") for entry in attributes)


def test_every_number_is_shown(tmp_path, read):
    seen = read(written(tmp_path)).text
    for given in (
        "psnr_stage2",
        "22.71",
        "codebook_use",
        "0.984",
        "12,345",
        "5 min 12 s",
        "0.0213",
        "3,005",
        "1,234,567",
        "2.15",
    ):
        assert given in seen
    for distance in ("0.100", "0.200", "0.300", "0.400", "0.500", "0.062"):
        assert distance in seen


def test_images_are_sheets_with_the_very_pixels(tmp_path, read):
    report = example()
    page = read(written(tmp_path))
    shown = report.reconstructions
    triples = [part[i] for i in range(6) for part in (shown.originals, shown.stage1, shown.stage2)]
    near = report.neighbours
    expected = [
        grid(np.stack(triples[:12]), 3),
        grid(np.stack(triples[12:]), 3),
        grid(report.samples[0].images, 5),
        grid(report.samples[1].images, 2),
        grid(np.concatenate([near.samples[:5], near.nearest[:5]]), 5),
        grid(np.concatenate([near.samples[5:], near.nearest[5:]]), 1),
    ]
    for sheet, found, pixels in zip(page.sheets(), page.pixels(), expected, strict=True):
        assert np.array_equal(found, pixels)
        assert sheet["alt"]
        scale = int(sheet["width"]) // pixels.shape[2]
        assert scale >= 4
        assert (int(sheet["height"]), int(sheet["width"])) == (pixels.shape[1] * scale, pixels.shape[2] * scale)


@pytest.mark.parametrize(("side", "scale"), [(8, 8), (16, 4), (24, 3), (32, 2), (64, 1), (256, 1)])
def test_small_images_are_enlarged_by_whole_numbers(tmp_path, side, scale, read):
    samples = [ClassSamples("x", images(3, 0, side))]
    sheet = read(written(tmp_path, samples=samples)).sheets()[2]
    assert int(sheet["width"]) == (3 * (side + 1) + 1) * scale


def test_a_curve_becomes_one_svg_with_its_lines(tmp_path, read):
    page = read(written(tmp_path))
    assert [tag for tag, _ in page.elements].count("svg") == 2
    strokes = [attributes.get("style", "") for tag, attributes in page.elements if tag == "path"]
    assert [any(colour in style for style in strokes) for colour in ("#0072b2", "#d55e00", "#009e73")] == [
        True,
        True,
        False,
    ]
    for shown in ("Log", "step", "loss", "0.01", "100", "$b_$"):
        assert shown in page.text
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    used = {attributes["href"][1:] for _, attributes in page.elements if "href" in attributes}
    used |= set(re.findall(r"url\(#([^)]*)\)", written(tmp_path)))
    assert used
    assert used <= set(identifiers)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(
    "lines",
    [
        {},
        {"a": ([], [])},
        {"a": ([5], [0.3])},
        {"a": ([0, 1], [0.0, -1.0])},
        {"a": ([0, 1, 2], [1.0, float("nan"), 2.0])},
    ],
)
def test_curves_with_little_in_them(tmp_path, lines, log_y):
    text = written(tmp_path, curves=[Curve("t", "x", "y", lines, log_y)])
    assert ("nothing recorded" in text) == (not any(x for x, _ in lines.values()))


def test_parts_may_be_missing(tmp_path, read):
    page = read(written(tmp_path, neighbours=None, curves=[], stages=[], samples=[]))
    assert len(page.sheets()) == 2
    for heading in ("Samples by class", "copies", "Curves", "Training"):
        assert heading not in page.text
    assert "no samples" in read(written(tmp_path)).text


def test_same_report_same_file(tmp_path):
    assert written(tmp_path) == written(tmp_path)


def test_names_that_are_no_text_do_not_stop_the_report(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert "caf?" in written(tmp_path, samples=[ClassSamples(name, images(1, 0))])


def test_page_declares_what_it_needs_to_be_read(tmp_path, read):
    text = written(tmp_path)
    assert text.startswith("<!doctype html>")
    metas = [attributes for tag, attributes in read(text).elements if tag == "meta"]
    assert {"charset": "utf-8"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    policy = next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in text
    assert html.escape(NASTY, quote=False)[:20] in text


def test_a_demo_stays_small(tmp_path):
    ten = [ClassSamples(str(digit), images(10, digit, 32)) for digit in range(10)]
    written(tmp_path, samples=ten)
    assert (tmp_path / "report.html").stat().st_size < 1_500_000


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_told_and_nothing_written(tmp_path, monkeypatch, library):
    for name in {library, *(name for name in sys.modules if name.split(".")[0] == library)}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AlitokError, match=rf"{library}.*pip install 'alitok\[demo\]'"):
        write_report(tmp_path / "report.html", example())
    assert list(tmp_path.iterdir()) == []


def test_plain_numbers():
    assert [duration(x) for x in (8.26, 59.94, 59.97, 92, 3599.9, 3600, 11045)] == [
        "8.3 s", "59.9 s", "1 min 00 s", "1 min 32 s", "1 h 00 min", "1 h 00 min", "3 h 04 min",
    ]  # fmt: skip
    assert [significant(x) for x in (0.02134, 0.07, 4.567, 99.94, 1234.4)] == [
        "0.0213",
        "0.0700",
        "4.57",
        "99.9",
        "1,234",
    ]
