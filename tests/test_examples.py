"""The examples run as a reader would start them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alitok.jobs.codec import check_codec

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def mean_colour(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield __import__("probe_other_tokenizer").MeanColour()
    sys.modules.pop("probe_other_tokenizer")


def test_mean_colours_come_back_to_half_a_level(mean_colour):
    images = torch.rand(5, 3, 16, 16)
    assert check_codec(mean_colour, images) == (4, 0)
    codes = mean_colour.encode(images)
    again = mean_colour.decode(codes)
    assert torch.equal(mean_colour.encode(again), codes)
    means = images.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
    assert (again[:, :, ::4, ::4] - means).abs().max() <= 0.5 / 8 + 1e-6
    assert int(codes.max()) < mean_colour.codebook_size


@pytest.mark.slow
def test_the_example_of_another_tokenizer_finds_no_future():
    pytest.importorskip("sklearn")
    command = [sys.executable, EXAMPLES / "probe_other_tokenizer.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"[\d.]+%", output) == ["100.0%", "0.0%", "0.0%"] * 2
