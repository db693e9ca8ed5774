import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from alitok.core.errors import AlitokError
from alitok.run.measure import Measured
from alitok.run.report import METRICS, print_metrics, write_report

NASTY = "<script>alert('x')</script>\"'& ü"
CPU = torch.device("cpu")
METRIC_VALUES = {**dict.fromkeys(METRICS, 0.5), "seconds": 312.4, "psnr_stage2": 22.71, "new": 1.5}


def images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)


@pytest.fixture
def measured():
    labels = np.array([0] * 12 + [1] * 2)
    nearest = images(6, 5), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.0625])
    originals, stage1, stage2 = (images(6, seed) for seed in range(3))
    return Measured({}, ("zero", NASTY), originals, stage1, stage2, images(14, 3), labels, images(6, 4), *nearest)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "run.toml").write_text("[recipe]\nname = '</pre>" + NASTY + "'\n")
    for stage in ("stage1", "stage2", "generator"):
        (tmp_path / stage).mkdir()
        records = [{"step": step, "loss": 3.0 / step, "val_loss": None} for step in (1, 2)]
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


STEP = {"step_seconds": 263.0, "steps": 12_345, "seconds": 312.4, "batch_size": 64, "parameters": 1_234_567}
STEPS = {"check": {"seconds": 1.0}, "stage1": STEP, "stage2": STEP, "generator": STEP}


def test_the_report_shows_every_number_image_and_text_and_runs_nothing(root, measured, read):
    write_report(root, "alitok fit " + NASTY, METRIC_VALUES, measured, STEPS, CPU)
    text = (root / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    page = read(text)
    page.check_alone()
    assert page.text.count(NASTY) >= 3  # command, configuration, class
    for shown in ("psnr_stage2", "22.7 dB", "5.2 min", "12,345", "0.0213", "3,004.1", "1,234,567", "0.062", "nats per"):
        assert shown in page.text, shown
    assert len(page.sheets()) == 2 + 2 + 2  # reconstructions, classes, nearest training images
    assert (root / "report.html").stat().st_size < 1_500_000


def test_the_same_run_gives_the_same_report(root, measured, monkeypatch):
    monkeypatch.setattr("alitok.run.report.environment", lambda device: {"device": "cpu"})
    texts = []
    for _ in range(2):
        write_report(root, "alitok fit", METRIC_VALUES, measured, STEPS, CPU)
        texts.append((root / "report.html").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_reported_and_nothing_written(root, measured, monkeypatch, library):
    for name in {library, *(name for name in sys.modules if name.split(".")[0] == library)}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AlitokError, match=rf"{library}.*pip install 'alitok\[demo\]'"):
        write_report(root, "alitok fit", METRIC_VALUES, measured, STEPS, CPU)
    assert not (root / "report.html").exists()


def test_metrics_are_printed_with_units_and_what_is_good():
    console = Console(file=io.StringIO(), width=120)
    print_metrics(console, {"seconds": 90.0, "psnr_stage2": 25.7, "codebook_use": 0.984, "samples": math.nan, "x": 2.5})
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[1:] == [
        "training time 90 s",
        "PSNR, stage 2 25.7 dB (above 24: shapes clear)",
        "codebook usage 98.4% (above 90 %: no dead codes)",
        "samples not finite",
        "x 2.5",
    ]
