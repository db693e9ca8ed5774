"""The page in a real browser, against a stub: slow rows, a full queue, a key, broken streams, many classes."""

import base64
import importlib.util
import io
import threading

import pytest
from PIL import Image

from .page_browser import choose, chosen, generate, generated, image_file, open_page
from .page_stub import Stub, colour, serving

pytestmark = pytest.mark.slow
if importlib.util.find_spec("playwright"):
    from playwright.sync_api import expect


@pytest.fixture
def stub():
    with serving(Stub()) as stub:
        yield stub


@pytest.fixture
def stubbed(browser, stub):
    """Opens the stub's page once the stub is as the test wants it; messages with an `expected` part are ignored."""
    opened = []

    def visit(*expected, **options):
        opened.append(open_page(browser, stub.address, **options))
        page, watch = opened[-1].__enter__()
        watch.expected = expected
        page.goto(stub.address)
        return page

    yield visit
    for each in opened:
        each.__exit__(None, None, None)


def test_rows_arrive_live(stub, stubbed):
    stub.gate = threading.Semaphore(2)
    page = stubbed()
    choose(page, "class 3")
    generate(page)
    canvas = page.locator("#generate-gallery canvas")
    expect(canvas).to_be_visible()
    expect(page.locator("#generate-progress .status p")).to_have_text("2 of 4 rows")
    opacity = canvas.evaluate(
        "c => [...c.getContext('2d').getImageData(3, 0, 1, 16).data].filter((_, at) => at % 4 === 3)"
    )
    assert opacity[:8] == [255] * 8
    assert opacity[12:] == [0] * 4
    assert page.locator("#generate-form button.main").is_disabled()
    assert generated(page).count() == 0
    stub.gate.release(2)
    expect(generated(page)).to_have_count(1)
    expect(page.locator("#generate-progress .status")).to_be_hidden()


def test_stop_ends_a_request(stub, stubbed):
    stub.gate = threading.Semaphore(1)
    page = stubbed()
    choose(page, "class 3")
    page.locator("#generate-form button.main").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#generate-progress .status p")).to_contain_text("1 of 4")
    stop = page.get_by_role("button", name="Stop").first
    expect(stop).to_be_focused()  # the keyboard is where it is needed next
    page.keyboard.press("Enter")
    expect(page.locator("#announcer")).to_have_text("Stopped.")
    expect(page.locator("#generate-gallery .result")).to_contain_text("not finished")
    expect(page.locator("#generate-form button.main")).to_be_focused()
    assert not page.locator(".notice").count()
    stub.gate.release(99)
    stub.gate = None
    generate(page)
    expect(generated(page)).to_have_count(1)


def test_classes_are_found_by_keyboard(stub, stubbed):
    stub.classes = [f"thing {number}" for number in range(998)] + ["red fox", "grey fox"]
    page = stubbed()
    field = page.locator("#generate-classes")
    assert field.get_attribute("role") == "combobox"
    field.fill("fox")
    options = page.locator("#generate-classes-list [role=option]")
    assert options.all_text_contents() == ["red fox", "grey fox"]
    assert field.get_attribute("aria-expanded") == "true"
    active = page.locator(f"#{field.get_attribute('aria-activedescendant')}")
    assert active.text_content() == "red fox"
    field.press("ArrowDown")
    assert page.locator(f"#{field.get_attribute('aria-activedescendant')}").text_content() == "grey fox"
    field.press("ArrowDown")  # round to the first
    field.press("Enter")
    field.fill("THING 99")
    assert options.first.text_content() == "thing 99"  # the name itself before those that begin so
    field.press("Enter")
    assert chosen(page) == ["red fox", "thing 99"]
    expect(page.locator("#announcer")).to_have_text("thing 99 chosen. 2 classes.")
    expect(page.locator("#generate-classes-more")).to_contain_text("940 more classes")
    field.press("Escape")
    assert field.get_attribute("aria-expanded") == "false"
    field.press("Backspace")
    assert chosen(page) == ["red fox"]
    field.fill("no such thing")
    expect(page.locator("#generate-classes-more")).to_have_text("No matching class.")
    field.fill("thing")
    expect(options).to_have_count(60)  # no list of a thousand entries, which would be slow at each letter


def test_a_full_queue_is_reported_and_retried(stub, stubbed):
    page = stubbed("429")
    stub.refuse = 429, "Too many images are waiting.", {"Retry-After": "7"}
    choose(page, "class 1")
    generate(page)
    problem = page.locator("#generate-progress [role=alert]")
    expect(problem).to_contain_text("Too many images are waiting. Try again in 7 seconds.")
    stub.gate = threading.Semaphore(0)
    problem.get_by_role("button", name="Try again").press("Enter")
    expect(page.get_by_role("button", name="Stop").first).to_be_focused()  # the button that was pressed is gone
    assert problem.count() == 0
    stub.gate.release(99)
    expect(generated(page)).to_have_count(1)
    expect(page.locator("#generate-form button.main")).to_be_focused()


def test_the_models_own_settings_are_sent_as_they_are(stub, stubbed):
    """Even those between the steps of a slider, or beyond its ends."""
    own = {"guidance_scale": 2.37, "guidance_power": 0.333, "temperature": 2.5, "top_p": 0.905, "top_k": 500}
    stub.sampling |= own
    page = stubbed()
    choose(page, "class 1")
    generate(page)
    expect(generated(page)).to_have_count(1)
    assert {name: stub.asked[-1][name] for name in own} == own
    page.locator("#generate-guidance_scale").press("ArrowRight")
    page.locator("#generate-guidance_power").fill("1.5")
    generate(page)
    expect(generated(page)).to_have_count(2)
    assert stub.asked[-1]["guidance_scale"] == pytest.approx(2.5)
    assert stub.asked[-1]["guidance_power"] == 1.5
    page.get_by_role("button", name="Same again").last.click()
    generate(page)
    expect(generated(page)).to_have_count(3)
    assert {name: stub.asked[-1][name] for name in own} == own


NO_STORAGE = """for (const name of ["sessionStorage", "localStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("It is refused.", "SecurityError"); } });
}"""


def test_a_browser_that_blocks_storage_uses_a_key_for_this_visit(stub, stubbed):
    page = stubbed("401")
    stub.key = "right-key"
    page.add_init_script(NO_STORAGE)
    page.reload()
    page.locator("#key-field").fill("right-key")
    page.keyboard.press("Enter")
    choose(page, "class 1")
    generate(page)
    expect(generated(page)).to_have_count(1)
    assert page.evaluate("(() => { try { sessionStorage; return false } catch { return true } })()")  # it did refuse


def test_cancelling_the_key_dialog(stub, stubbed):
    stub.key = "right-key"
    page = stubbed("401")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#start-notice")).to_contain_text("This service needs a key.")
    page.get_by_role("button", name="Try again").press("Enter")
    page.get_by_role("button", name="Cancel").press("Enter")
    expect(page.get_by_role("button", name="Try again")).to_be_focused()
    stub.key = None
    page.keyboard.press("Enter")
    expect(page.locator("#generate-classes")).to_be_visible()
    expect(page.get_by_role("tab", name="Generate")).to_be_focused()
    assert not page.locator("#start-notice").is_visible()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("break_after", "before the images were finished."),
        ("fail_after", "The model ran out of memory."),
    ],
)
def test_a_stream_that_ends_early_is_reported(stub, stubbed, how, words):
    page = stubbed("ERR_")
    setattr(stub, how, 3)
    choose(page, "class 1", "class 2")
    generate(page)
    problem = page.locator("#generate-progress [role=alert]")
    expect(problem).to_contain_text(words)
    expect(page.locator("#generate-gallery .result")).to_have_text(["class 1not finished", "class 2not finished"])
    problem.get_by_role("button", name="Try again").click()
    expect(generated(page)).to_have_count(2)
    assert problem.count() == 0


def test_a_service_that_is_gone_is_reported(stub, stubbed):
    page = stubbed("ERR_")
    choose(page, "class 1")
    page.context.set_offline(True)
    generate(page)
    expect(page.locator("#generate-progress [role=alert]")).to_contain_text("The service does not respond.")
    assert not page.locator("#generate-gallery .batch").count()


def test_completes_a_generated_image_by_keyboard(stub, stubbed):
    page = stubbed()
    choose(page, "class 4")
    generate(page)
    page.get_by_role("button", name="Complete class 4").focus()
    page.keyboard.press("Enter")
    line = page.get_by_role("slider", name="Line below which the model generates")
    expect(line).to_be_focused()
    assert line.get_attribute("aria-valuetext") == "keeps 2 rows, generates 2 rows"
    page.keyboard.press("ArrowUp")
    assert line.get_attribute("aria-valuetext") == "keeps 1 row, generates 3 rows"
    page.keyboard.press("ArrowUp")  # one row at least is kept
    assert line.get_attribute("aria-valuenow") == line.get_attribute("aria-valuemax") == "3"
    page.keyboard.press("Home")
    assert line.get_attribute("aria-valuetext") == "keeps 3 rows, generates 1 row"
    generate(page, "complete")
    expect(generated(page, "complete")).to_have_count(1)
    sent = stub.asked[-1]["completion"]
    assert sent["rows"] == 3
    assert stub.asked[-1]["classes"] == [4]
    with Image.open(io.BytesIO(base64.b64decode(sent["image"]))) as image:
        assert image.size == (16, 16)
        seed = 4242
        assert image.convert("RGB").getpixel((3, 9)) == colour(4, seed, 0, 2)


def test_a_completion_is_varied_and_retried_with_its_own_image_and_line(stub, stubbed):
    page = stubbed("429")
    pick, line = page.locator("#complete-pick input"), page.locator(".cut")
    page.get_by_role("tab", name="Complete").click()
    choose(page, "class 4", form="complete")
    pick.set_input_files([image_file()])
    line.press("Home")  # keeps three rows
    generate(page, "complete")
    expect(generated(page, "complete")).to_have_count(1)
    first = stub.asked[-1]["completion"]
    other = io.BytesIO()
    Image.new("RGB", (40, 40), "#10f010").save(other, "png")
    pick.set_input_files([{"name": "other.png", "mimeType": "image/png", "buffer": other.getvalue()}])
    expect(line).to_have_attribute("aria-valuenow", "2")

    page.get_by_role("button", name="Vary", exact=True).click()
    expect(generated(page, "complete")).to_have_count(2)
    assert stub.asked[-1]["completion"] == first
    stub.refuse = 429, "Too many images are waiting.", {}
    page.get_by_role("button", name="Vary class 4").first.click()
    page.get_by_role("button", name="Try again").click()
    expect(generated(page, "complete")).to_have_count(3)
    assert stub.asked[-1]["completion"] == first
    generate(page, "complete")
    expect(generated(page, "complete")).to_have_count(4)
    assert stub.asked[-1]["completion"]["rows"] == 2
    assert stub.asked[-1]["completion"]["image"] != first["image"]
    page.get_by_role("button", name="Same again").last.click()
    expect(line).to_have_attribute("aria-valuenow", "1")
    generate(page, "complete")
    expect(generated(page, "complete")).to_have_count(5)
    assert stub.asked[-1]["completion"] == first


def test_without_a_run_the_tab_is_hidden(stubbed):
    page = stubbed()
    expect(page.get_by_role("tab")).to_have_count(3)
    assert page.get_by_role("tab", name="Run").count() == 0
