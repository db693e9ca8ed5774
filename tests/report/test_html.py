import dataclasses
import html
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from alitok.core.errors import AlitokError
from alitok.core.images import grid
from alitok.report.html import write_html
from alitok.report.images import samples_by_class
from alitok.report.model import NOTHING, Bullets, Cell, Code, Curves, Facts, HeatMaps, Images, Row, Section, Table

NASTY = "<script>alert('x')</script>\"'& |`*_ü"


def images(count, seed, size=16):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def texts(value):
    """Every string in a report that a reader sees, keys of dictionaries included."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name not in {"alt", "file"} and type(value).__name__ != "HeatMap":
                yield from texts(getattr(value, field.name))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from texts(key)
            yield from texts(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from texts(entry)


def plain(fragment):
    parser, found = HTMLParser(), []
    parser.handle_data = found.append
    parser.feed(fragment)
    parser.close()
    return "".join(found)


def headings(text):
    return [html.unescape(found) for found in re.findall(r"<h2>(.*?)</h2>", text)]


def test_nothing_is_fetched_or_run(page, read):
    text = page()
    assert read(text).sheets(), "images, which could be fetched, are there"
    read(text).check_alone()
    assert "default-src 'none'; img-src data:" in html.unescape(text)


def test_every_text_is_shown_whole_and_escaped(page, report, read):
    text = page()
    assert "<script" not in text.lower()
    seen = re.sub(r"\s+", " ", read(text).text)
    given = [re.sub(r"\s+", " ", entry).strip() for entry in texts(report) if entry]
    assert len(given) > 60
    for entry in given:
        assert entry in seen, entry
    for number in ("0.100", "0.500", "0.062", "250.2", "301.5", "1.625", "1.375", "1.75", "1, 2"):
        assert number in seen
    attributes = [attributes for _, attributes in read(text).elements]
    assert f"7 samples of class zero {NASTY}" in [entry.get("alt") for entry in attributes]
    assert any(NASTY in entry.get("aria-label", "") for entry in attributes)


def test_columns_stand_side_by_side_with_their_intervals(page):
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", page(), re.DOTALL)
    cells = [[plain(cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows[:2]]
    assert cells[0] == ["stage 1" + "0.911" + "0.90 to 0.92", "stage 2 " + NASTY + "0.862", "lower " + NASTY]
    assert cells[1][:2] == ["stage 1" + "0.991", "stage 2 " + NASTY + NOTHING]


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(AssertionError, match="gFID"):
        Table(("a", "b"), (Row("gFID", ("1.44",)),))


def test_sheets_have_the_very_pixels(page, read):
    found = read(page())
    shown = [images(6, seed) for seed in range(3)]
    triples = [part[i] for i in range(6) for part in shown]
    samples, nearest = images(6, 6), images(6, 7)
    expected = [
        None,  # the heat map
        grid(images(7, 3), 5),
        grid(np.concatenate([samples[:5], nearest[:5]]), 5),
        grid(np.concatenate([samples[5:], nearest[5:]]), 1),
        grid(np.stack(triples[:12]), 3),
        grid(np.stack(triples[12:]), 3),
        None,  # the scale of errors
        images(1, 9)[0],
    ]
    for sheet, pixels, given in zip(found.sheets(), found.pixels(), expected, strict=True):
        assert sheet["alt"]
        if given is None:
            continue
        assert np.array_equal(pixels, given)
        scale = int(sheet["width"]) // given.shape[2]
        assert scale >= 4
        assert sheet["class"] == "enlarged"
        assert (int(sheet["height"]), int(sheet["width"])) == (given.shape[1] * scale, given.shape[2] * scale)
    assert "no images" in found.text


@pytest.mark.parametrize(("size", "scale"), [(8, 8), (16, 4), (24, 3), (32, 2), (64, 1), (256, 1)])
def test_small_images_are_enlarged_by_whole_factors(page, read, size, scale):
    """Large ones are scaled down smoothly where the screen is narrow."""
    sheet = read(page(samples_by_class({"x": images(3, 0, size)}))).sheets()[0]
    assert int(sheet["width"]) == (3 * (size + 1) + 1) * scale
    assert ("class" in sheet) == (scale > 1)


def test_empty_sections_leave_no_headings(page, report):
    full = headings(page())
    assert full == ["Warnings", *(section.heading for section in report.sections)]
    empty = (Table(("a",), ()), Facts({}), Bullets(()), Code(""), Images(()), Curves(()), HeatMaps(()))
    bare = page(Section("nothing", empty), warnings=())
    assert headings(bare) == []
    assert not re.search(r"<section|<table|<svg|<img", bare)


def test_same_report_same_file(page):
    assert page() == page()


def test_tables_scroll_where_the_keyboard_reaches(page, read):
    text = page()
    frames = [attributes for _, attributes in read(text).elements if attributes.get("class") == "scroll"]
    assert len(frames) == text.count("<table") == 5
    assert all(frame["tabindex"] == "0" and frame["role"] == "region" and frame["aria-label"] for frame in frames)


def test_names_that_are_not_text_do_not_stop_the_report(page):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert "caf?" in page(samples_by_class({name: images(1, 0)}))


def test_page_declares_what_it_needs_to_be_read(page, read):
    text = page()
    assert text.startswith("<!doctype html>")
    metas = [attributes for tag, attributes in read(text).elements if tag == "meta"]
    assert {"charset": "utf-8"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    policy = next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in text


def test_a_demo_stays_small(page):
    assert len(page(samples_by_class({str(digit): images(10, digit, 32) for digit in range(10)}))) < 1_500_000


def test_strong_rows_and_folded_tables_are_set_off(page):
    text = page()
    assert text.count('class="strong"') == 2
    assert re.search(r"<details><summary>More</summary>\s*<div class=\"scroll\"", text)
    assert Cell("", "").text == NOTHING


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_reported_and_nothing_written(tmp_path, report, monkeypatch, library):
    for name in {library, *(name for name in sys.modules if name.split(".")[0] == library)}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AlitokError, match=rf"{library}.*pip install 'alitok\[demo\]'"):
        write_html(tmp_path / "report.html", report)
    assert list(tmp_path.iterdir()) == []
