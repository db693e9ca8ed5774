"""The whole system at the smallest size, through the function that the command calls."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.jobs.pipeline import Pipeline
from alitok.workflow.demo import DemoOptions, resolve_recipe, run_demo

SMALL = (
    "tokenizer.encoder.layers=1",
    "tokenizer.stage1.layers=1",
    "tokenizer.stage2.layers=1",
    "stage1.phases.main.steps=12",
    "stage1.phases.main.warmup_steps=6",
    "stage2.phases.main.steps=8",
    "stage2.phases.main.warmup_steps=4",
    "generator_size.layers=1",
    "generator.phases.main.steps=12",
    "generator.phases.main.warmup_steps=6",
    "stage1.loop.checkpoint_every=3",
    "stage2.loop.checkpoint_every=3",
    "generator.loop.checkpoint_every=3",
    "samples_per_class=3",
)
KEYS = {
    "seconds",
    "psnr_stage1",
    "psnr_stage2",
    "codebook_use",
    "sample_accuracy",
    "classifier_accuracy",
    "nn_distance_samples",
    "nn_distance_heldout",
}


def options(out, data="digits", **changes):
    return DemoOptions(data=data, out=out, device="cpu", overrides=SMALL, **changes)


def results(out):
    numbers = json.loads((out / "metrics.json").read_text())
    timeless = {name: value for name, value in numbers.items() if name not in ("seconds", "peak_memory_gb")}
    return timeless, np.load(out / "samples" / "samples.npz")["arr_0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    run_demo(options(out))
    return out


def test_everything_promised_is_there(finished):
    assert json.loads((finished / "metrics.json").read_text()).keys() >= KEYS
    report = (finished / "report.html").read_text()
    assert "alitok demo" in report
    assert "psnr_stage2" in report
    assert Image.open(finished / "samples" / "samples.png").size[0] > 50
    for stage in ("stage1", "stage2", "generator"):
        assert (finished / stage / "metrics.jsonl").stat().st_size > 0
        assert list((finished / stage / "pictures").iterdir())
        assert list((finished / stage / "checkpoints").iterdir())
    assert not list(finished.rglob("*.part"))


def test_the_finished_models_draw(finished):
    pictures = Pipeline.from_pretrained(finished / "model", device="cpu")(["3", 7], seed=1)
    assert [picture.size for picture in pictures] == [(16, 16)] * 2


def test_the_same_seed_gives_the_same_pictures_and_numbers_and_another_seed_others(finished, tmp_path):
    first = results(finished)
    run_demo(options(tmp_path / "again"))
    run_demo(options(tmp_path / "other", seed=1))
    again, other = results(tmp_path / "again"), results(tmp_path / "other")
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_run_again_it_skips_what_is_done(finished):
    times = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    run_demo(options(finished))
    assert times == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_other_settings_in_the_same_place_are_refused(finished):
    with pytest.raises(AlitokError, match=r"other settings \(seed\)"):
        run_demo(options(finished, seed=5))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_anywhere_and_run_again_it_ends_the_same(finished, tmp_path, how):
    command = [sys.executable, "-c", "from alitok.cli import main; main()", "demo", "--device", "cpu"]
    command += ["--out", str(tmp_path / "run"), "--set", *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for wanted in ("stage1/checkpoints/step-00000006", "generator/checkpoints/step-00000003"):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            until = time.monotonic() + 120
            while not (tmp_path / "run" / wanted).exists() and process.poll() is None and time.monotonic() < until:
                time.sleep(0.001)
            process.send_signal(how)
            status = process.wait(timeout=60)
        text = (tmp_path / "log").read_text()
        assert "Traceback" not in text
        if how == signal.SIGINT and status != 0:
            assert status == 130
            assert "Interrupted" in text
    run_demo(options(tmp_path / "run"))
    first, second = results(finished), results(tmp_path / "run")
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


@pytest.mark.slow
def test_a_folder_of_pictures_of_many_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for name, base in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            side = rng.integers(40, 90, 2)
            pixels = np.clip(rng.normal(base, 20, (*side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    run_demo(options(tmp_path / "run", data=str(tmp_path / "data")))
    pipeline = Pipeline.from_pretrained(tmp_path / "run" / "model", device="cpu")
    assert pipeline.generator.class_names == ("blue", "green", "red")


def test_a_broken_picture_stops_before_training_and_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (64, 64), (number * 40, 0, 0)).save(tmp_path / "data" / name / f"{number}.png")
    broken = tmp_path / "data" / "b" / "1.png"
    Image.effect_noise((64, 64), 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:-500])
    with pytest.raises(AlitokError, match=r"b/1\.png"):
        run_demo(options(tmp_path / "run", data=str(tmp_path / "data")))
    assert not (tmp_path / "run" / "stage1").exists()


def test_a_file_of_recipe_keys_is_laid_over_the_preset_and_overrides_over_it(tmp_path):
    (tmp_path / "my.toml").write_text("samples_per_class = 7\n[stage1.loop]\nbatch_size = 5\n[sampling]\ntop_k = 3\n")
    recipe = resolve_recipe(DemoOptions(config=tmp_path / "my.toml", overrides=("stage1.loop.batch_size=6",)))
    assert (recipe.samples_per_class, recipe.stage1.loop.batch_size, recipe.sampling.top_k) == (7, 6, 3)
    assert recipe.stage2 == resolve_recipe(DemoOptions()).stage2
    (tmp_path / "bad.toml").write_text("[stage1.lop]\nsteps = 5\n")
    with pytest.raises(AlitokError, match=r"bad\.toml: unknown key 'stage1\.lop'; did you mean 'stage1\.loop'"):
        resolve_recipe(DemoOptions(config=tmp_path / "bad.toml"))
