"""A browser for the page's tests: pages watched for errors and foreign requests, user actions, computed contrast."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE = 20_000  # ms

# Every text that is on the screen, with its colour laid over all that lies behind it.
_LOW_CONTRAST = """
() => {
  const painter = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    painter.clearRect(0, 0, 1, 1);
    painter.fillStyle = colour;
    painter.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = painter.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((value, at) => value * top[3] + below[at] * (1 - top[3]));
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const seen = [];
  const check = (node, colour, words) => {
    const below = behind(node);
    seen.push([words, ratio(over(rgba(colour), below), below)]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const words = walker.currentNode.data.trim();
    if (!words || !node.checkVisibility() || ["SCRIPT", "NOSCRIPT"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    check(node, node.namespaceURI.includes("svg") ? style.fill : style.color, words);
  }
  for (const input of document.querySelectorAll("input, select")) {
    if (!input.checkVisibility() || input.type === "range") continue;
    check(input, getComputedStyle(input).color, `in ${input.id}`);
    if (input.placeholder) check(input, getComputedStyle(input, "::placeholder").color, `placeholder of ${input.id}`);
  }
  return { looked: seen.length, low: seen.filter(([, value]) => value < 4.5) };
}
"""


@dataclass
class Watch:
    """What a page did that it should not have done.

    Attributes:
        expected: parts of messages that the test provokes.
        messages: errors on the console, exceptions, and violations of the content policy.
        foreign: requests to other hosts.
    """

    address: str
    expected: tuple[str, ...] = ()
    messages: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("console", lambda said: self.messages.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda asked: self._request(asked.url))

    def _request(self, url: str) -> None:
        if not url.startswith((self.address, "blob:", "data:")):
            self.foreign.append(url)

    def check(self) -> None:
        unexpected = [said for said in self.messages if not any(part in said for part in self.expected)]
        assert not self.foreign, self.foreign
        assert not unexpected, unexpected


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium without a window; skips where there is none, or no Playwright to drive it."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("Playwright is not installed: pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_PATIENCE)  # for machines that are busy; nothing waits longer than it must
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, address: str, **context_options: Any) -> Iterator[tuple[Page, Watch]]:
    """A page of its own storage, checked at the end."""
    options = {"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce", **context_options}
    context = browser.new_context(**options)
    context.set_default_timeout(_PATIENCE)
    watch = Watch(address)
    try:
        page = context.new_page()
        watch.follow(page)
        yield page, watch
        watch.check()
    finally:
        context.close()


def low_contrast(page: Page) -> list[tuple[str, float]]:
    """Texts on the screen below 4.5 : 1."""
    found = page.evaluate(_LOW_CONTRAST)
    assert found["looked"] > 10, "there was nothing to look at"
    return found["low"]


def overflows(page: Page) -> bool:
    """Whether the page can be scrolled sideways."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def choose(page: Page, *names: str, form: str = "generate") -> None:
    """Classes by typing and Enter."""
    search = page.locator(f"#{form}-classes")
    for name in names:
        search.fill(name)
        search.press("Enter")
    search.press("Escape")


def chosen(page: Page) -> list[str]:
    """Names of the chosen classes."""
    return page.locator("#generate-form .chips li").evaluate_all("all => all.map((chip) => chip.firstChild.data)")


def record_progress(page: Page) -> None:
    """Let the page's `log` collect what is reported while images are generated, and the number of finished ones."""
    page.evaluate(
        """() => {
          window.log = [];
          const record = () => log.push([document.querySelector("#generate-progress .status p").textContent,
                                        document.querySelectorAll("#generate-gallery .result img").length]);
          new MutationObserver(record).observe(document.body, { subtree: true, childList: true, characterData: true });
        }"""
    )


def generate(page: Page, form: str = "generate") -> None:
    """The form's main button."""
    page.locator(f"#{form}-form button.main").click()


def generated(page: Page, form: str = "generate") -> Locator:
    """The finished images, newest first."""
    return page.locator(f"#{form}-gallery .result img")


def image_file() -> dict[str, Any]:
    """A file to upload: red above blue."""
    image = Image.new("RGB", (40, 40), "#d03020")
    image.paste("#2040c0", (0, 20, 40, 40))
    file = io.BytesIO()
    image.save(file, "png")
    return {"name": "image.png", "mimeType": "image/png", "buffer": file.getvalue()}


def write_run(folder: Path) -> Path:
    """The logs and images of a training run of two stages."""
    for stage in ("stage1", "generator"):
        images = folder / stage / "images"
        images.mkdir(parents=True)
        records = [{"step": step, "loss": 100 / step, "learning_rate": 1e-4} for step in range(10, 310, 10)]
        records += [{"step": step, "val_psnr": 10 + step / 50} for step in (100, 200, 300)]
        (folder / stage / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        for step in (100, 200, 300):
            Image.new("RGB", (64, 32), (step % 256, 80, 120)).save(images / f"reconstructions-{step:06d}.png")
    return folder
