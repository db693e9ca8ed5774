"""`alitok sample` and `alitok complete` as a user starts them, each time in a new process."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from alitok.generator import Generator, GeneratorConfig
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

SMALL = {"width": 8, "layers": 1, "heads": 2}


def alitok(*arguments, at):
    command = [sys.executable, "-m", "alitok", *map(str, arguments)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=at, env=alone)


@pytest.fixture
def place(tmp_path):
    """A folder with a saved pair."""
    config = TokenizerConfig(
        image_size=16,
        patch_size=8,
        codebook_size=8,
        code_width=4,
        encoder=EncoderConfig(**SMALL),
        stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
        stage2=None,
    )
    size = GeneratorConfig(grid=2, prefix=2, codebook_size=8, classes=2, layers=1, width=8, heads=2)
    generator, tokenizer = Generator(size, ["ant", "bee"]).eval(), Tokenizer(config).eval()
    for model in (generator, tokenizer):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    Pipeline(tokenizer, generator).save_pretrained(tmp_path / "model")
    return tmp_path


def test_options_are_parsed_without_pytorch(place):
    code = """
import sys, alitok.cli
alitok.cli.app.meta(["sample", "--help"], result_action="return_value")
alitok.cli.app.parse_args(["sample", "model", "--out", "s", "--top-k", "4", "--classes", "a", "b"])
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_sample_and_complete(place):
    words = (
        "sample",
        "model",
        "--out",
        "s",
        "--num",
        6,
        "--per-class",
        3,
        "--classes",
        "ant",
        1,
        "--device",
        "cpu",
        "--guidance-scale",
        2,
    )
    done = alitok(*words, "--top-k", 4, "--soft-guidance", "--guidance-schedule", "linear", at=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 images in" in done.stdout
    assert len(list((place / "s").glob("*/*.png"))) == 6
    refused = alitok(*words, at=place)
    assert refused.returncode == 2
    assert refused.stderr.startswith("alitok: error: s was begun with conflicting settings: ")
    assert "sampling.guidance_schedule (linear, now cosine)" in refused.stderr

    Image.new("RGB", (20, 30), "red").save(place / "red.png")
    words = ("complete", "model", "red.png", "--rows", 1, "--count", 3, "--out", "sheet.png", "--device", "cpu")
    done = alitok(*words, "--class", "bee", "--temperature", 0.5, at=place)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.size == (5 * 100 + 4, 114 + 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("sample", "model"), "--out"),
        (("sample", "model", "--out", "s", "--guidence-scale", "3"), "--guidence-scale"),
        (("sample", "model", "--out", "s", "--format", "jpg"), "jpg"),
        (("complete", "model", "--rows", "1", "--out", "s.png"), "IMAGE"),
        (("complete", "model", "x.png", "--rows", "half", "--out", "s.png"), "half"),
    ],
)
def test_a_wrong_word_ends_in_one_message(place, words, named):
    refused = alitok(*words, at=place)
    assert refused.returncode not in (0, 1)
    assert named in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert not (place / "s").exists()
