"""The preflight of a training: good runs of all stages pass it and are not changed by it; each fault is reported."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.sources.builtin import DigitSource
from alitok.run.options import TrainOptions
from alitok.run.preflight import _predictable
from alitok.run.tasks import Trainings
from alitok.run.train import run_training
from alitok.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

# A stage 1 that is trained just enough for its codes to draw something.
SMALL = (
    *(f"{part}.layers=1" for part in ("tokenizer.encoder", "tokenizer.stage1", "tokenizer.stage2", "generator_size")),
    *(f"{stage}.loop.batch_size=32" for stage in ("stage1", "stage2", "generator")),
    *("stage1.phases.main.steps=300", "stage1.phases.main.warmup_steps=50"),
    *(f"{stage}.phases.main.{key}" for stage in ("stage2", "generator") for key in ("steps=10", "warmup_steps=4")),
)


def options(out, *overrides, preflight=False):
    return TrainOptions(out=out, data="digits", device="cpu", overrides=(*SMALL, *overrides), preflight=preflight)


def preflight(stage, out, *overrides):
    run_training(stage, options(out, *overrides, preflight=True))


def report(out, stage):
    return json.loads((out / "preflight" / stage / "preflight.json").read_text())


def numbers(out, stage):
    return {entry["name"]: entry["value"] for entry in report(out, stage)["numbers"]}


def files(root):
    found = [path for path in root.rglob("*") if path.is_file() and "preflight" not in path.relative_to(root).parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A run with a finished stage 1, and codes; nobody writes to it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("preflight") / "run"
    run_training("stage1", options(out))
    preflight("generator", out)
    return out


@pytest.fixture
def run(untouched, tmp_path):
    shutil.copytree(untouched, tmp_path / "run")
    return tmp_path / "run"


def test_a_good_stage_1_passes_and_trains_to_the_same_bits(untouched, tmp_path):
    preflight("stage1", tmp_path / "run")
    names = {path.name for path in (tmp_path / "run" / "preflight" / "stage1").iterdir()}
    assert names == {"preflight.json", "classes.png", "batch.png", "overfit.png"}
    assert not (tmp_path / "run" / "stage1").exists()
    assert report(tmp_path / "run", "stage1")["passed"]
    run_training("stage1", options(tmp_path / "run"))
    names = [f"stage1/tokenizer/{name}.safetensors" for name in ("encoder", "quantizer", "stage1")]
    assert [files(tmp_path / "run")[name] for name in names] == [files(untouched)[name] for name in names]


@pytest.mark.parametrize("stage", ["stage2", "generator"])
def test_good_later_stages_pass_and_nothing_else_in_the_run_is_touched(run, stage):
    before = files(run)
    preflight(stage, run)
    assert files(run) == before
    assert report(run, stage)["passed"]
    found = numbers(run, stage)
    assert len(found["losses"]) < 1000
    if stage == "generator":
        assert found["train: same codes"] == found["val: same codes"] == 1
    else:
        assert found["encoder and codebook after the rehearsal"]


def test_the_sheets_show_what_they_say(run):
    preflight("generator", run)
    with Image.open(run / "preflight" / "generator" / "codes-train.png") as image:
        sheet = np.asarray(image)[:, 160:]  # beside the names: rows of 8 images of 64 pixels, 4 apart
    rows = [sheet[68 * row + 4 : 68 * row + 68] for row in range(4)]
    for images, decoded in (rows[:2], rows[2:]):
        cells = [
            [row[:, 68 * place : 68 * place + 64].astype(float) for place in range(8)] for row in (images, decoded)
        ]
        apart = np.array([[((original - drawn) ** 2).mean() for drawn in cells[1]] for original in cells[0]])
        assert apart.diagonal().mean() < apart.mean()  # nearer to their own drawing than to others


def in_two_processes(stage, out, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "alitok", "train", stage]
    command += ["--preflight", "--device", "cpu", "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(("stage", "parallel"), [("stage1", "fsdp"), ("stage2", "ddp"), ("generator", "fsdp")])
def test_two_processes_pass(run, tmp_path, stage, parallel):
    out = tmp_path / "other" if stage == "stage1" else run
    done = in_two_processes(stage, out, "--data", "digits", "--set", *SMALL, f"engine.parallel={parallel}")
    assert done.returncode == 0, done.stderr
    assert "Preflight passed" in done.stdout
    assert report(out, stage)["passed"]


def test_a_fault_that_two_processes_find_is_reported_once_with_status_2(run):
    swap_labels(run)
    done = in_two_processes("generator", run)
    assert done.stderr.count("alitok: error: Preflight of generator") == 1
    assert "exitcode  : 2" in done.stderr


def swap_labels(run):
    for path in (run / "codes" / "train").glob("labels-*.npy"):
        labels = np.load(path)
        swapped = np.array([0, 7, 2, 3, 4, 5, 6, 1, 8, 9], labels.dtype)
        np.save(path, swapped[labels])


def swap_shards(run):
    first, second = (run / "codes" / "train" / f"codes-{number:05d}.npy" for number in (2, 3))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def shift_rows(run):
    for path in (run / "codes" / "val").glob("codes-*.npy"):
        np.save(path, np.roll(np.load(path), 1, axis=0))


def change_tokenizer(run, part):
    path = run / "stage1" / "tokenizer"
    tokenizer = Tokenizer.from_pretrained(path)
    with torch.no_grad():
        for parameter in getattr(tokenizer, part).parameters():
            parameter.copy_(parameter.flip(0))
    tokenizer.save_pretrained(path)


@pytest.mark.parametrize(
    ("damage", "stage", "sentence"),
    [
        (swap_labels, "generator", r"labels in .*codes/train are not those of their images; delete .*codes"),
        (swap_shards, "generator", r"codes in .*codes/train are not those of their images"),
        (shift_rows, "generator", r"codes in .*codes/val are not those of their images"),
        (lambda run: change_tokenizer(run, "quantizer"), "generator", "another tokenizer; encode the images again"),
        (lambda run: change_tokenizer(run, "stage1"), "generator", "not reconstruct from its own codes: its MSE"),
        (lambda run: change_tokenizer(run, "stage1"), "stage2", "stage 1 does not reconstruct from its own codes"),
    ],
)
def test_what_changed_on_disk_is_reported(run, damage, stage, sentence):
    damage(run)
    with pytest.raises(AlitokError, match=rf"Preflight of {stage}: .*{sentence}.*preflight.json"):
        preflight(stage, run)
    assert not report(run, stage)["passed"]


def test_other_crops_than_the_stored_ones_are_reported(run, monkeypatch):
    views = DigitSource.views
    monkeypatch.setattr(DigitSource, "views", lambda *place: np.roll(views(*place), 2, axis=-1))
    with pytest.raises(AlitokError, match="their crops or the tokenizer differ"):
        preflight("generator", run)


def test_other_class_names_are_reported(run, monkeypatch):
    names = Trainings.new_generator

    def renamed(self):
        generator = names(self)
        generator.class_names = generator.class_names[::-1]
        return generator

    monkeypatch.setattr(Trainings, "new_generator", renamed)
    with pytest.raises(AlitokError, match=r"the classes of the codes in .* are not those"):
        preflight("generator", run)


@pytest.mark.parametrize(
    ("stage", "rate", "sentence"),
    [
        ("stage1", "0.5", r"lower stage1.phases.main.learning_rate \(now 0.5\)"),
        ("stage2", "0.5", r"lower stage2.phases.main.learning_rate \(now 0.5\)"),
        ("generator", "1e4", r"lower generator.phases.main.learning_rate \(now 1e\+04\)"),
    ],
)
def test_a_learning_rate_that_diverges_is_reported(run, tmp_path, monkeypatch, stage, rate, sentence):
    monkeypatch.setattr("alitok.train.overfit.STEPS", 100)
    with pytest.raises(AlitokError, match=sentence):
        preflight(stage, tmp_path / "other" if stage == "stage1" else run, f"{stage}.phases.main.learning_rate={rate}")


@pytest.mark.parametrize(
    ("stage", "part", "message"),
    [
        ("stage1", "encoder.norm_out.weight", "should be trained and is frozen"),
        ("stage2", "quantizer.codebook", "should be frozen and is trained"),
    ],
)
def test_a_part_that_is_frozen_or_trained_by_mistake_is_reported(run, tmp_path, monkeypatch, stage, part, message):
    make = Trainings.stage

    def changed(self, stage, **options):
        training = make(self, stage, **options)
        training.model.get_parameter(part).requires_grad_(stage == "stage2")
        return training

    monkeypatch.setattr(Trainings, "stage", changed)
    with pytest.raises(AlitokError, match=f"{part} {message}"):
        preflight(stage, tmp_path / "other" if stage == "stage1" else run)


def test_pixels_that_are_not_finite_are_reported(tmp_path, monkeypatch):
    read = DigitSource.read

    def broken(self, index, rng):
        image = read(self, index, rng)
        return image if rng is None else np.where(image > 200, np.nan, image.astype(np.float32))

    monkeypatch.setattr(DigitSource, "read", broken)
    with pytest.raises(AlitokError, match=r"pixels of the images of the first batch are torch.float32 from nan to nan"):
        preflight("stage1", tmp_path)


def test_images_that_change_between_reads_are_reported(tmp_path, monkeypatch):
    read, draw = DigitSource.read, np.random.default_rng(0)

    def changing(self, index, rng):
        return read(self, index, rng) ^ np.uint8(draw.integers(2))

    monkeypatch.setattr(DigitSource, "read", changing)
    with pytest.raises(AlitokError, match="the first batch differs when it is read again"):
        preflight("stage1", tmp_path)


def test_what_can_be_predicted_of_sequences():
    # The first codes of class 0 are a predict between two; all that follows is decided, and so is class 1.
    assert _predictable([[1, 2, 3], [4, 5, 6], [1, 2, 3]], [0, 0, 1]) == pytest.approx(8 / 9)
    assert _predictable([[1, 2], [1, 3], [1, 3]], [0, 0, 0]) == pytest.approx(5 / 6)
