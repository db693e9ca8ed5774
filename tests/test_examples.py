"""The examples, and the Python code of README and pages, run as a reader would; all on one small model."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.metrics.codec import check_codec

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SMALL = [
    "tokenizer.encoder.layers=1",
    "tokenizer.stage1.layers=1",
    "tokenizer.stage2.layers=1",
    "stage1.loop.batch_size=8",
    "stage2.loop.batch_size=8",
    "generator.loop.batch_size=8",
    "generator_size.layers=1",
    "samples_per_class=2",
]


@pytest.fixture
def example(monkeypatch, capsys):
    """Runs an example as its command line would; returns what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of few steps, made by the first of the examples, and what that one printed."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("examples") / "run"
    script = EXAMPLES / "train_on_images.py"
    command = [sys.executable, script, "--out", out, "--steps", "6", "--set", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def mean_color(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield __import__("probe_other_tokenizer").MeanColor()
    sys.modules.pop("probe_other_tokenizer")


def test_mean_colors_are_reconstructed_to_half_a_level(mean_color):
    images = torch.rand(5, 3, 16, 16)
    assert check_codec(mean_color, images) == (4, 0)
    codes = mean_color.encode(images)
    again = mean_color.decode(codes)
    assert torch.equal(mean_color.encode(again), codes)
    means = images.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
    assert (again[:, :, ::4, ::4] - means).abs().max() <= 0.5 / 8 + 1e-6
    assert int(codes.max()) < mean_color.codebook_size


@pytest.mark.slow
def test_the_example_tokenizer_has_no_influence_from_the_future():
    pytest.importorskip("sklearn")
    command = [sys.executable, EXAMPLES / "probe_other_tokenizer.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"[\d.]+%", output) == ["100.0%", "0.0%", "0.0%"] * 2


@pytest.mark.slow
def test_a_whole_run_in_one_call(run):
    out, output = run
    assert re.search(r"Reconstruction PSNR \d+\.\d dB; the report is .*report\.html", output)
    assert (out / "report.html").stat().st_size > 10_000
    assert json.loads((out / "metrics.json").read_text())["samples"] == 20


@pytest.mark.parametrize(
    ("name", "words", "output"),
    [
        ("sample.py", ["nowhere"], "nowhere is not a directory with a saved model"),
        ("evaluate.py", ["nowhere", "--out", "out"], "nowhere"),
        ("reconstruct.py", ["nowhere"], "nowhere is not a directory with a saved model"),
        ("call_service.py", ["http://127.0.0.1:9"], "The service at 127.0.0.1:9 does not respond"),
        ("train_on_images.py", ["--data", "nowhere", "--out", "out"], "nowhere"),
        ("train_stage_by_stage.py", ["--data", "nowhere", "--out", "out"], "nowhere"),
        ("own_images.py", ["--out", "out", "--set", "no.such=1"], "no"),
    ],
)
def test_a_wrong_path_is_a_one_line_error(name, words, output, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        example(name, *words)
    assert output in left.value.code


@pytest.mark.slow
def test_stage_by_stage(tmp_path, example):
    pytest.importorskip("sklearn")
    output = example("train_stage_by_stage.py", "--out", tmp_path / "run", "--steps", 4, "--set", *SMALL)
    assert re.findall(r"^(stage1|generator|stage2): val_\w+ [\d.]+$", output, re.MULTILINE) == [
        "stage1",
        "generator",
        "stage2",
    ]
    assert "Classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in output


@pytest.mark.slow
def test_sampling(run, tmp_path, example):
    output = example("sample.py", run[0] / "model", "--out", tmp_path / "sampled")
    assert "23 images in" in output
    strips = re.findall(r"rows of pixels from (\d+) \(1, 3, 4, 16\)", output)
    assert strips == ["0", "4", "8", "12"]
    assert "finished (1, 3, 16, 16)" in output


@pytest.mark.slow
def test_reconstruction(run, tmp_path, example):
    output = example("reconstruct.py", run[0] / "model" / "tokenizer", "--out", tmp_path / "rebuilt.png", "--count", 5)
    assert re.search(r"stage1: [\d.]+ dB\nstage2: [\d.]+ dB\n20 codes per image", output)
    sheet = np.asarray(Image.open(tmp_path / "rebuilt.png"))
    assert sheet.shape[0] // 16 == 3
    assert sheet.shape[1] // 16 == 5


@pytest.mark.slow
def test_evaluation(run, tmp_path, example):
    pytest.importorskip("scipy")
    pytest.importorskip("torchmetrics")
    output = example("evaluate.py", run[0] / "model", "--out", tmp_path / "out", "--samples", 40)
    assert re.findall(r"^(samples|stage1|stage2)$", output, re.MULTILINE) == ["samples", "stage1", "stage2"]
    for part in ("generation", "reconstruction"):
        assert (tmp_path / "out" / part / "report.html").exists()
    printed = output[output.index("\nsamples\n") :]
    assert "fid" not in printed.lower()  # features trained here never give an FID
    assert re.search(r"^  psnr +[\d.]+$", printed, re.MULTILINE)


@pytest.mark.slow
def test_a_service_is_called(run, tmp_path, example):
    pytest.importorskip("fastapi")
    command = [sys.executable, "-m", "alitok", "serve", run[0] / "model", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            address = service.stdout.readline().split()[3]
            output = example("call_service.py", address, "--out", tmp_path / "served")
        finally:
            service.terminate()
    assert len(list((tmp_path / "served").glob("*.png"))) == 5
    assert [line.split(":")[0] for line in output.splitlines() if line.startswith("row")] == [
        f"row {n}" for n in range(4)
    ]
    assert "finished: class 0, seed 5" in output
    assert "rejected with 4" in output


@pytest.mark.slow
def test_your_own_images(tmp_path, example):
    words = ["--out", tmp_path / "run", "--count", 60, "--steps", 4, "--set", *SMALL]
    output = example("own_images.py", *words)
    assert "generates circle and square" in output
    assert Image.open(tmp_path / "run" / "circle.png").size == (16, 16)
    shapes = runpy.run_path(str(EXAMPLES / "own_images.py"))["Shapes"](10)
    assert shapes.encoded(3) == shapes.encoded(3) != shapes.encoded(5)
    example("own_images.py", *words)  # nothing left to do


@pytest.mark.slow
def test_python_code_of_the_pages_runs(run, tmp_path, monkeypatch, capsys):
    """Blocks continue one another; the models they load stand where the pages expect them."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/demo/model", "models/alitok-b"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(run[0] / "model")
    blocks = [
        block
        for page in ("README.md", "docs/sampling.md", "docs/released.md")
        for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    ]
    assert len(blocks) == 3
    blocks[2] = blocks[2].replace(
        '"golden retriever", 207', '"7", 2'
    )  # the released model knows ImageNet, this one digits
    names = {}
    for block in blocks:
        exec(compile(block, "pages", "exec"), names)
    assert len(names["other"]) == len(names["images"]) == 2
    assert names["images"][0].size == (16, 16)
    assert Image.open("three.png").size == (128, 128)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "4", "8", "12", "0"]
