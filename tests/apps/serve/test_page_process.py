"""The page against `alitok serve` as a user starts it, with the demo's model.

ALITOK_DEMO_RUN names the directory of a finished `alitok demo`; without it the model has the demo's sizes and random
weights.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alitok.apps.bench.bench import named_configs
from alitok.generator import Generator
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Tokenizer

from .page_browser import (
    choose,
    generate,
    generated,
    image_file,
    open_page,
    record_progress,
    write_run,
)

pytestmark = pytest.mark.slow
if importlib.util.find_spec("playwright"):
    from playwright.sync_api import expect


def demo_run(folder):
    """The directory of a run with a model."""
    if "ALITOK_DEMO_RUN" in os.environ:
        return Path(os.environ["ALITOK_DEMO_RUN"])
    tokenizer, generator, sampling = named_configs("digits-generator")
    names = [str(digit) for digit in range(10)]
    model = Generator(generator, names).eval()
    torch.nn.init.normal_(model.output.weight, std=0.02)
    Pipeline(Tokenizer(tokenizer).eval(), model, sampling).save_pretrained(folder / "model")
    return write_run(folder)


@pytest.fixture
def address(browser, tmp_path):
    run = demo_run(tmp_path)
    command = [sys.executable, "-m", "alitok", "serve", run / "model", "--port", "0", "--run", run]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("Serving model at"), line
            yield line.split()[3]
        finally:
            process.terminate()
        assert process.wait(60) == 0


def test_a_visit(browser, address):
    with open_page(browser, address) as (page, _):
        page.goto(address)
        record_progress(page)
        choose(page, "3", "7")
        generate(page)
        expect(generated(page)).to_have_count(2)
        rows = {int(words.split()[0]) for words, _ in page.evaluate("log") if "of 8 rows" in words}
        assert rows == set(range(1, 9))
        page.get_by_role("button", name="Complete 3").click()
        generate(page, "complete")
        expect(generated(page, "complete")).to_have_count(1)

        page.get_by_role("tab", name="Reconstruct").click()
        page.locator("#reconstruct-pick input").set_input_files([image_file()])
        expect(page.locator("#reconstruct-result .version")).to_have_count(4)
        expect(page.locator("[role=gridcell]")).to_have_count(20)
        page.get_by_role("tab", name="Run").click()
        expect(page.locator(".curves .card").first).to_be_visible()
