"""The page in a real browser, against the service with a tiny model."""

import base64
import importlib.util
import re
from math import cos, pi

import pytest
from PIL import Image

from alitok.apps.serve.service import PAGE

from .page_browser import (
    choose,
    chosen,
    generate,
    generated,
    image_file,
    low_contrast,
    open_page,
    overflows,
    record_progress,
    write_run,
)

pytestmark = pytest.mark.slow
if importlib.util.find_spec("playwright"):
    from playwright.sync_api import expect


@pytest.fixture(scope="module")
def address(browser, make_service, page_pipeline, tmp_path_factory):
    limits = {"max_images": 16, "max_upload_bytes": 200_000}
    run = write_run(tmp_path_factory.mktemp("run"))
    with make_service(page_pipeline, limits=limits, run=run) as service:
        yield service.address


@pytest.fixture
def page(browser, address):
    with open_page(browser, address) as (page, _):
        page.goto(address)
        yield page


# Generate


def test_generates_rows_and_then_the_images(page):
    record_progress(page)
    choose(page, "hammerhead", "great white")
    page.locator("#generate-count").fill("2")
    page.locator("#generate-seed").fill("11")
    generate(page)
    expect(generated(page)).to_have_count(4)
    log = page.evaluate("log")
    counts = [int(words.split()[0]) for words, images in log if "of 16 rows" in words and not images]
    assert sorted(set(counts)) == list(range(1, 17))  # every row was on the screen before the first finished image
    expect(page.locator("#announcer")).to_have_text("Finished: 4 images.")
    expect(page.locator(".batch-head p")).to_contain_text(
        "hammerhead, great white shark · seed 11 · guidance 2, cosine"
    )
    assert (
        page.locator("#generate-gallery figcaption").all_text_contents()
        == ["hammerhead"] * 2 + ["great white shark"] * 2
    )


def test_an_image_is_saved_as_it_was_sent(page):
    choose(page, "great white shark")
    page.locator("#generate-seed").fill("5")
    generate(page)
    with page.expect_download() as saving:
        page.get_by_role("link", name="Save great white shark").click()
    assert saving.value.suggested_filename == "great-white-shark-5-0.png"
    with Image.open(saving.value.path()) as image:
        assert image.size == (16, 16)


def test_same_again_and_vary(page):
    choose(page, "ostrich", "hen")
    page.locator("#generate-guidance_scale").fill("4.5")
    page.locator("#generate-guidance_schedule").select_option("linear")
    generate(page)
    expect(generated(page)).to_have_count(2)
    first = pixels_of(page)
    seed = re.search(r"seed (\d+)", page.locator(".batch-head p").text_content())[1]

    page.locator(".chips button").first.click()
    page.locator("#generate-guidance_scale").fill("1")
    page.locator("#generate-guidance_schedule").select_option("constant")
    page.get_by_role("button", name="Same again").click()
    assert page.locator("#generate-seed").input_value() == seed
    assert page.locator("#generate-guidance_scale").input_value() == "4.5"
    assert page.locator("#generate-guidance_schedule").input_value() == "linear"
    assert chosen(page) == ["ostrich", "hen"]
    generate(page)
    expect(generated(page)).to_have_count(4)
    assert pixels_of(page)[:2] == first

    page.get_by_role("button", name="Vary", exact=True).first.click()
    expect(generated(page)).to_have_count(6)
    assert page.locator("#generate-seed").input_value() != seed
    assert pixels_of(page)[:2] != first
    page.get_by_role("button", name="Vary hen").first.click()
    expect(generated(page)).to_have_count(7)
    assert page.locator("#generate-gallery figcaption").first.text_content() == "hen"


def pixels_of(page):
    return generated(page).evaluate_all(
        """async (images) => Promise.all(images.map(async (image) => {
          await image.decode();
          const canvas = document.createElement("canvas");
          canvas.width = image.naturalWidth;
          canvas.height = image.naturalHeight;
          canvas.getContext("2d").drawImage(image, 0, 0);
          return canvas.toDataURL();
        }))"""
    )


def test_the_schedule_is_plotted_as_its_settings_change(page):
    plot = page.locator("#generate-form svg.schedule")

    def scales():
        """Guidance scales read back from the plot."""
        heights = [
            float(value) for value in re.findall(r"(?:M\S+ |V)([\d.]+)", plot.locator(".curve").get_attribute("d"))
        ]
        rules = plot.locator(".rule").evaluate_all("all => all.map((line) => Number(line.getAttribute('y1')))")
        words = plot.locator("text[text-anchor=end]").all_text_contents()
        (low, high), (y_low, y_high) = (float(words[0]), float(words[-1])), (rules[0], rules[-1])
        return [low + (y - y_low) / (y_high - y_low) * (high - low) for y in heights]

    page.locator("#generate-guidance_scale").fill("9")
    page.locator("#generate-guidance_power").fill("1.5")
    expected = [1 + 8 * (1 - cos(pi * (s / 20) ** 1.5)) / 2 for s in range(20)]
    assert scales() == pytest.approx(expected, abs=0.02)
    page.locator("#generate-guidance_schedule").select_option("linear")
    expect(page.locator("#generate-guidance_power")).to_be_hidden()
    assert scales() == pytest.approx([1 + 8 * s / 20 for s in range(20)], abs=0.02)
    page.locator("#generate-guidance_schedule").select_option("constant")
    assert scales() == pytest.approx([9.0] * 20, abs=0.02)
    assert "9 at the last" in plot.get_attribute("aria-label")
    assert {"guidance scale", "code (of 20)"} <= set(plot.locator("text").all_text_contents())


def test_invalid_settings_are_reported_beside_the_gallery(page):
    problem = page.locator("#generate-progress [role=alert]")
    generate(page)
    expect(problem).to_have_text("Choose at least one class.")
    expect(page.locator("#generate-classes")).to_be_focused()
    choose(page, "tench", "hen")
    page.locator("#generate-count").fill("9")
    generate(page)
    expect(problem).to_contain_text("make 18 images; this service allows at most 16 per request.")
    page.locator("#generate-count").fill("1")
    page.locator("#generate-seed").fill("-3")
    generate(page)
    expect(problem).to_contain_text("The seed must be a whole number from 0 to 9007199254740991.")
    page.get_by_role("button", name="Random seed").click()
    assert int(page.locator("#generate-seed").input_value()) >= 0
    generate(page)
    expect(generated(page)).to_have_count(2)
    expect(problem).to_have_count(0)


# Reconstruct


def test_reconstructs_and_shows_the_codes(page):
    page.get_by_role("tab", name="Reconstruct").click()
    page.locator("#reconstruct-pick input").set_input_files([image_file()])
    versions = page.locator("#reconstruct-result .version")
    expect(versions).to_have_count(4)
    titles = versions.locator("figcaption").all_text_contents()
    assert [title for title in titles if re.fullmatch(r"Stage [12]\d+\.\d\d dB", title)] == titles[1:3]
    assert versions.locator("img").evaluate_all("all => all.every((image) => image.naturalWidth === 16)")

    rows = page.locator("#reconstruct-result [role=row]")
    assert [rows.nth(at).locator("[role=gridcell]").count() for at in range(rows.count())] == [4] * 5
    cells = page.locator("[role=gridcell]")
    assert cells.evaluate_all("all => all.filter((cell) => cell.tabIndex === 0).length") == 1
    same = cells.evaluate_all(
        """(all) => {
          const colours = new Map(all.map((cell) => [cell.dataset.code, getComputedStyle(cell).backgroundColor]));
          return all.every((cell) => getComputedStyle(cell).backgroundColor === colours.get(cell.dataset.code))
            && new Set(colours.values()).size === colours.size;
        }"""
    )
    assert same  # one colour for one code, another for another
    readout = page.locator(".readout")
    cells.nth(6).hover()
    expect(readout).to_contain_text("at row 1, column 3;")
    cells.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(cells.nth(5)).to_be_focused()
    code = cells.nth(5).get_attribute("data-code")
    expect(readout).to_contain_text(f"Code {code} of 32 at row 1, column 2;")
    page.keyboard.press("End")
    expect(cells.nth(7)).to_be_focused()


def test_an_image_can_be_dropped(page):
    page.get_by_role("tab", name="Reconstruct").click()
    drop(page, "#reconstruct-pick .pick", image_file())
    expect(page.locator("#reconstruct-result .version")).to_have_count(4)
    assert page.locator("#reconstruct-result .version img").count() == 4


def drop(page, place, file):
    data = base64.b64encode(file["buffer"]).decode()
    transfer = page.evaluate_handle(
        """([name, type, data]) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          transfer.items.add(new File([bytes], name, { type }));
          return transfer;
        }""",
        [file["name"], file["mimeType"], data],
    )
    page.dispatch_event(place, "drop", {"dataTransfer": transfer})


def test_a_file_that_is_not_an_image_is_reported_where_it_was_dropped(browser, address):
    with open_page(browser, address) as (page, watch):
        watch.expected = ("415", "422")
        page.goto(f"{address}/#reconstruct")
        problem = page.locator("#reconstruct-notice [role=alert]")
        pick = page.locator("#reconstruct-pick input")
        pick.set_input_files([{"name": "words.txt", "mimeType": "text/plain", "buffer": b"words"}])
        expect(problem).to_have_text("words.txt is not an image.")
        pick.set_input_files([{"name": "large.png", "mimeType": "image/png", "buffer": bytes(300_000)}])
        expect(problem).to_have_text("large.png has 0.3 MB; this service accepts images up to 0.2 MB.")
        pick.set_input_files([{"name": "broken.png", "mimeType": "image/png", "buffer": b"no png at all"}])
        expect(problem.get_by_role("button", name="Try again")).to_be_visible()
        assert len(problem.locator("p").text_content()) > 15
        problem.get_by_role("button", name="Try again").press("Enter")
        expect(page.get_by_role("button", name="Choose an image").first).to_be_focused()
        expect(problem).to_be_visible()
        page.get_by_role("tab", name="Complete").click()
        page.locator("#complete-pick input").set_input_files(
            [{"name": "broken.png", "mimeType": "image/png", "buffer": b"no png at all"}]
        )
        expect(page.locator("#complete-pick [role=alert]")).to_contain_text("cannot read this file")


# Complete


def test_completes_by_dragging_with_the_real_model(page):
    page.get_by_role("tab", name="Complete").click()
    generate(page, "complete")
    problem = page.locator("#complete-progress [role=alert]")
    expect(problem).to_have_text("Choose at least one class.")
    choose(page, "cock", form="complete")
    generate(page, "complete")
    expect(problem).to_have_text("Choose an image first.")
    drop(page, "#complete-pick .pick", image_file())
    line = page.locator(".cut")
    expect(line).to_be_visible()
    line.scroll_into_view_if_needed()
    board = page.locator(".board").bounding_box()
    middle = board["x"] + board["width"] / 3
    page.mouse.move(middle, board["y"] + board["height"] / 2)
    page.mouse.down()
    page.mouse.move(middle, board["y"] + board["height"] * 0.65)
    page.mouse.move(middle, board["y"] + board["height"] * 0.72, steps=3)
    page.mouse.up()
    assert line.get_attribute("aria-valuetext") == "keeps 3 rows, generates 1 row"  # snapped to three quarters
    expect(page.locator(".line p")).to_have_text("Keeps the first 3 rows of 4, generates the last row.")
    generate(page, "complete")
    expect(generated(page, "complete")).to_have_count(1)
    expect(problem).to_have_count(0)


# Run


def test_shows_a_run(page):
    page.get_by_role("tab", name="Run").click()
    cards = page.locator(".curves .card")
    expect(cards.locator("figcaption")).to_contain_text(["loss", "learning rate", "val psnr"])
    psnr = cards.filter(has_text="val psnr")
    assert psnr.locator(".curve").get_attribute("d").count("L") == 2
    expect(psnr.locator("output")).to_have_text("16 at step 300")
    psnr.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    expect(psnr.locator("output")).to_have_text("14 at step 200")
    box = psnr.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 40)
    expect(psnr.locator("output")).to_have_text("12 at step 100")

    sheet = page.locator(".sheet")
    expect(sheet).to_have_attribute("alt", "reconstructions at step 300")
    page.locator("#run-step").press("Home")
    expect(sheet).to_have_attribute("alt", "reconstructions at step 100")
    assert page.locator("#run-step").get_attribute("aria-valuetext") == "step 100"
    assert sheet.evaluate("image => image.naturalWidth") == 64
    page.get_by_role("radio", name="Generator").check(force=True)
    expect(sheet).to_have_attribute("alt", "reconstructions at step 300")
    again = page.get_by_role("button", name="Reload")
    again.evaluate("button => (button.id = 'before')")
    again.press("Enter")
    expect(page.locator("#before")).to_have_count(0)
    expect(again).to_be_focused()


# All over


def test_the_service_requires_a_key(browser, make_service, page_pipeline, tmp_path):
    """A form that closes a dialog works although the policy forbids sending forms."""
    with (
        make_service(page_pipeline, key="correct-horse", run=write_run(tmp_path)) as service,
        open_page(browser, service.address) as (page, watch),
    ):
        watch.expected = ("401",)
        page.goto(service.address)
        dialog, field = page.locator("#key-dialog"), page.locator("#key-field")
        expect(dialog).to_contain_text("A valid key is required")
        field.fill("wrong-horse")
        page.keyboard.press("Enter")
        expect(field).to_have_value("")
        field.fill("correct-horse")
        page.get_by_role("button", name="Use this key").click()
        choose(page, "hen")
        generate(page)
        expect(generated(page)).to_have_count(1)
        page.get_by_role("tab", name="Run").click()
        expect(page.locator(".sheet")).to_have_attribute("alt", "reconstructions at step 300")
        page.reload()
        expect(page.locator("#model-facts")).to_contain_text("tiny")
        expect(dialog).to_be_hidden()
        stored = page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
        assert stored == [["correct-horse"], [], ""]  # for this tab only


def test_tabs_by_keyboard_and_by_address(page, address):
    page.get_by_role("tab", name="Generate").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Run")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel")).to_have_attribute("id", "panel-reconstruct")
    assert page.locator("[role=tab][tabindex='0']").all_text_contents() == ["Reconstruct"]
    assert page.url == f"{address}/#reconstruct"
    page.reload()
    expect(page.get_by_role("tab", selected=True)).to_have_text("Reconstruct")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_contrast(browser, address, theme):
    with open_page(browser, address, color_scheme=theme) as (page, _):
        page.goto(address)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        assert dark == (theme == "dark")
        generate(page)  # an error
        choose(page, "tench")
        page.locator("summary").first.click()
        page.locator("#generate-classes").fill("shark")
        assert low_contrast(page) == []
        page.locator("#generate-classes").fill("")
        page.locator("#generate-classes").press("Escape")
        generate(page)
        expect(generated(page)).to_have_count(1)
        assert low_contrast(page) == []
        page.get_by_role("button", name="Complete tench").click()
        expect(page.locator(".cut")).to_be_visible()
        assert low_contrast(page) == []
        page.get_by_role("tab", name="Reconstruct").click()
        page.locator("#reconstruct-pick input").set_input_files([image_file()])
        expect(page.locator("#reconstruct-result .version")).to_have_count(4)
        assert low_contrast(page) == []
        page.get_by_role("tab", name="Run").click()
        expect(page.locator(".sheet")).to_have_count(1)
        assert low_contrast(page) == []


def test_the_theme_is_remembered(page):
    body = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(body) == "rgb(255, 255, 255)"
    page.get_by_label("Theme").select_option("dark")
    assert page.evaluate(body) == "rgb(20, 23, 26)"
    page.reload()
    assert page.evaluate(body) == "rgb(20, 23, 26)"
    page.get_by_label("Theme").select_option("system")
    assert page.evaluate(body) == "rgb(255, 255, 255)"


def test_a_narrow_screen_needs_no_scrolling_sideways(browser, address):
    phone = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}
    with open_page(browser, address, **phone) as (page, _):
        page.goto(address)
        choose(page, "great white shark", "tiger shark", "hammerhead")
        assert not overflows(page)
        generate(page)
        expect(generated(page)).to_have_count(3)
        expect(page.locator("#generate-gallery .batch")).to_be_in_viewport()  # what was asked for is brought into view
        assert not overflows(page)
        page.get_by_role("button", name="Complete hammerhead").tap()
        expect(page.locator(".cut")).to_be_visible()
        assert not overflows(page)
        page.get_by_role("tab", name="Reconstruct").tap()
        page.locator("#reconstruct-pick input").set_input_files([image_file()])
        expect(page.locator("[role=gridcell]")).to_have_count(20)
        assert not overflows(page)
        page.get_by_role("tab", name="Run").tap()
        expect(page.locator(".curves .card")).to_have_count(3)
        assert not overflows(page)


def test_small_images_keep_their_pixels(page):
    choose(page, "hen")
    generate(page)
    image = generated(page)
    expect(image).to_have_count(1)
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert image.bounding_box()["width"] == 160


def test_no_file_of_the_page_loads_from_another_site():
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|<script>|javascript:", text), file.name
