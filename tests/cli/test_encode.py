"""`alitok encode` and `alitok data show` as a user starts them, each time in a new process."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from alitok.data.codes import CodeStore
from alitok.recipes.presets import RECIPES
from alitok.tokenizer import Tokenizer


def alitok(*arguments, at):
    command = [sys.executable, "-m", "alitok", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=at)


@pytest.fixture
def place(tmp_path):
    """A folder with images and a tokenizer."""
    Tokenizer(replace(RECIPES["digits"].tokenizer, stage2=None)).eval().save_pretrained(tmp_path / "tokenizer")
    for number in range(8):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(path)
    return tmp_path


@pytest.mark.slow
def test_encode_and_show(place):
    words = ("encode", "--tokenizer", "tokenizer", "--data", "images", "--out", "codes", "--device", "cpu")
    done = alitok(*words, "--crops", "flip", "--workers", 1, "--batch-size", 4, at=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 images x 2 crops = 16 sequences of 20 codes" in done.stdout
    assert CodeStore(place / "codes").crops == 2
    shown = alitok("data", "show", "codes", "--count", 4, "--device", "cpu", at=place)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "crops, left to right: centre; centre, mirrored" in shown.stdout
    assert (place / "codes.png").stat().st_size > 100
    refused = alitok(*words, at=place)
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "alitok: error: codes holds codes of conflicting settings (batch size, crops); start over"
    )
    assert alitok(*words, "--fresh", at=place).returncode == 0
    assert CodeStore(place / "codes").crops == 1


def test_a_directory_without_a_store_is_a_one_line_error(place):
    shown = alitok("data", "show", "images", at=place)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert (
        shown.stderr == "alitok: error: images is not a code store: it has no manifest.json; encode the images again.\n"
    )
