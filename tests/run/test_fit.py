"""The whole system at the smallest size, through the function that the command calls."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.core.config import to_dict, to_toml
from alitok.core.errors import AlitokError
from alitok.recipes.presets import RECIPES
from alitok.run.fit import run_fit
from alitok.run.options import FitOptions, TrainOptions
from alitok.run.report import METRICS
from alitok.run.resolve import resolve
from alitok.sampling.pipeline import Pipeline

SMALL = (
    *(f"{part}.layers=1" for part in ("tokenizer.encoder", "tokenizer.stage1", "tokenizer.stage2", "generator_size")),
    *(f"{stage}.phases.main.steps={steps}" for stage, steps in (("stage1", 12), ("stage2", 8), ("generator", 12))),
    *(f"{stage}.phases.main.warmup_steps=4" for stage in ("stage1", "stage2", "generator")),
    *(f"{stage}.loop.checkpoint_every=3" for stage in ("stage1", "stage2", "generator")),
    "samples_per_class=3",
)


def fit(out, *overrides, data="digits", **changes):
    options = FitOptions(out=out, device="cpu", overrides=(*SMALL, *overrides), **changes)
    return run_fit(data, options, command="alitok demo")


def results(out):
    numbers = json.loads((out / "metrics.json").read_text())
    timeless = {name: value for name, value in numbers.items() if name not in ("seconds", "peak_memory_gb")}
    return timeless, np.load(out / "samples" / "samples.npz")["arr_0"]


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(value, second[name]) for name, value in first.state_dict().items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    fit(out)
    return out


def test_all_documented_files_exist(finished):
    assert json.loads((finished / "metrics.json").read_text()).keys() == METRICS.keys()
    report = (finished / "report.html").read_text()
    assert "alitok demo" in report
    assert "psnr_stage2" in report
    assert Image.open(finished / "samples" / "samples.png").size[0] > 50
    for stage in ("stage1", "stage2", "generator"):
        assert (finished / stage / "metrics.jsonl").stat().st_size > 0
        assert list((finished / stage / "images").iterdir())
        assert list((finished / stage / "checkpoints").iterdir())
    assert not list(finished.rglob("*.part"))


def test_the_finished_models_generate(finished):
    images = Pipeline.from_pretrained(finished / "model", device="cpu")(["3", 7], seed=1)
    assert [image.size for image in images] == [(16, 16)] * 2


def test_the_same_seed_gives_the_same_images_and_numbers(finished, tmp_path):
    first = results(finished)
    fit(tmp_path / "again")
    again = results(tmp_path / "again")
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])


def test_a_rerun_skips_finished_steps(finished):
    before = times(finished)
    fit(finished)
    assert times(finished) == before


def times(root):
    return {
        path.relative_to(root).as_posix(): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and "replaced" not in path.parts
    }


def below(paths, *names):
    return {path for path in paths if path.startswith(names)}


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")  # times of change are kept
    return tmp_path / "run"


def test_another_decoder_is_trained_again_and_codes_and_generator_are_reused(copied):
    before, model = times(copied), Pipeline.from_pretrained(copied / "model", device="cpu")
    fit(copied, "stage2.phases.main.steps=10")
    after = times(copied)
    kept = below(before, "features", "stage1", "codes", "generator", "done/stage1", "done/encode", "done/generator")
    assert kept
    assert {path: before[path] for path in kept} == {path: after[path] for path in kept}
    assert json.loads((copied / "done" / "stage2.json").read_text())["steps"] == 10
    for name in ("metrics.json", "samples/samples.npz", "stage2/metrics.jsonl"):
        assert after[name] > before[name]
        assert (copied / "replaced" / "1" / name).exists()
    assert not (copied / "replaced" / "1" / "generator").exists()
    again = Pipeline.from_pretrained(copied / "model", device="cpu")
    assert same(again.generator, model.generator)
    assert same(again.tokenizer.encoder, model.tokenizer.encoder)
    assert not same(again.tokenizer.stage2, model.tokenizer.stage2)
    assert results(copied)[0].keys() == results(copied / "replaced" / "1")[0].keys()


def test_other_sampling_settings_train_nothing(copied):
    before = times(copied)
    fit(copied, "sampling.top_k=5")
    after = times(copied)
    trained = below(before, "stage1", "stage2", "generator", "codes")
    assert {path: before[path] for path in trained} == {path: after[path] for path in trained}
    assert json.loads((copied / "model" / "pipeline.json").read_text())["sampling"]["top_k"] == 5
    assert after["samples/samples.npz"] > before["samples/samples.npz"]


def test_another_interval_of_evaluation_redoes_nothing(copied):
    before = times(copied)
    fit(copied, "stage1.loop.evaluate_every=7")
    after = times(copied)
    assert {path for path in before if before[path] != after[path]} == {"run.toml"}
    assert not (copied / "replaced").exists()


def test_another_seed_redoes_all_and_other_data_is_another_run(copied):
    before = results(copied)
    fit(copied, seed=3)
    after = results(copied)
    assert before[0] != after[0]
    assert not np.array_equal(before[1], after[1])
    assert (copied / "replaced" / "1" / "stage1" / "tokenizer").exists()
    with pytest.raises(AlitokError, match=r"conflicting settings: data \(digits, now photos\);.*--fresh"):
        fit(copied, data="photos")


def test_a_rerun_without_options_resumes_with_those_of_the_run(copied):
    before = times(copied)
    run_fit("digits", FitOptions(out=copied, device="cpu"), command="alitok fit digits")
    assert times(copied) == before


def test_the_steps_are_printed_first_and_a_dry_run_changes_nothing(tmp_path, capsys):
    assert fit(tmp_path / "run", dry_run=True) == {}
    printed = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    for wanted in ("20 codes per image", "Stage 1: causal decoder", "about", "time left"):
        assert wanted in printed


def test_the_time_left_of_an_interrupted_run_counts_its_unfinished_steps(copied, capsys):
    for name in ("metrics.json", "report.html"):
        (copied / name).unlink()
    fit(copied)
    printed = capsys.readouterr().out
    assert printed.count("done, ") == 7
    assert printed.index("time left") < printed.index("Metrics and report\n")


def test_a_metric_that_is_not_finite_is_null_and_reported(copied, capsys):
    path = copied / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "psnr_stage1": None}))
    assert fit(copied)["psnr_stage1"] is None
    printed = capsys.readouterr().out
    assert "not finite" in printed
    assert re.search(r"PSNR, stage 2 +\d+\.\d dB +\(above 24: shapes clear\)", printed)


@pytest.mark.parametrize(
    "lost", ["generator/generator.safetensors", "tokenizer/stage2.safetensors", "tokenizer/config.json"]
)
def test_a_missing_file_of_a_model_is_written_again(copied, lost):
    path = copied / "model" / lost
    before = path.read_bytes()
    path.unlink()
    fit(copied)
    assert path.read_bytes() == before
    assert not (copied / "replaced").exists()


def test_a_dry_run_rejects_what_the_run_would(copied, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(AlitokError, match="is not empty and is not an alitok run directory"):
        fit(other, dry_run=True)
    with pytest.raises(AlitokError, match=r"conflicting settings: data"):
        fit(copied, data="photos", dry_run=True)
    fit(tmp_path / "new", dry_run=True)
    assert "No image was read; to check them all: alitok data inspect digits" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_run_is_not_taken_for_its_model(finished):
    with pytest.raises(AlitokError, match=r"is a run directory; its models are in .*model"):
        Pipeline.from_pretrained(finished)


@pytest.mark.slow
def test_a_run_stopped_anywhere_and_resumed_gives_the_same(finished, tmp_path):
    command = [sys.executable, "-c", "from alitok.cli import main; main()", "demo", "--device", "cpu"]
    command += ["--out", str(tmp_path / "run"), "--set", *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stops = (
        ("stage1/checkpoints/step-00000006", signal.SIGKILL),
        ("generator/checkpoints/step-00000003", signal.SIGINT),
    )
    for wanted, how in stops:
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
    fit(tmp_path / "run")
    first, second = results(finished), results(tmp_path / "run")
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


@pytest.mark.slow
def test_a_folder_of_images_of_many_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for name, base in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            side = rng.integers(20, 60, 2)
            pixels = np.clip(rng.normal(base, 20, (*side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    fit(tmp_path / "run", data=str(tmp_path / "data"))
    pipeline = Pipeline.from_pretrained(tmp_path / "run" / "model", device="cpu")
    assert pipeline.generator.class_names == ("blue", "green", "red")
    assert pipeline.tokenizer.config.image_size == 16


def test_a_broken_image_stops_before_training_and_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (64, 64), (number * 40, 0, 0)).save(tmp_path / "data" / name / f"{number}.png")
    broken = tmp_path / "data" / "b" / "1.png"
    Image.effect_noise((64, 64), 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:-500])
    with pytest.raises(AlitokError, match=r"b/1\.png"):
        fit(tmp_path / "run", data=str(tmp_path / "data"))
    assert not (tmp_path / "run" / "stage1").exists()


def test_a_file_of_recipe_keys_is_laid_over_the_preset_and_overrides_over_it(tmp_path):
    (tmp_path / "my.toml").write_text("samples_per_class = 7\n[stage1.loop]\nbatch_size = 5\n[sampling]\ntop_k = 3\n")
    request = TrainOptions(out=tmp_path, data="digits", config=tmp_path / "my.toml")
    recipe = resolve(replace(request, overrides=("stage1.loop.batch_size=6",))).recipe
    assert (recipe.samples_per_class, recipe.stage1.loop.batch_size, recipe.sampling.top_k) == (7, 6, 3)
    assert recipe.stage2 == RECIPES["digits"].stage2
    (tmp_path / "bad.toml").write_text("[stage1.lop]\nsteps = 5\n")
    with pytest.raises(AlitokError, match=r"bad\.toml: unknown key 'stage1\.lop'; did you mean 'stage1\.loop'"):
        resolve(replace(request, config=tmp_path / "bad.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "[stage1.phases.main]\nsteps = 20\nwarmup_steps = 2\n",
        '[[stage1.phases]]\nname = "main"\nsteps = 20\nwarmup_steps = 2\n',
        "[[stage1.phases]]\nsteps = 20\nwarmup_steps = 2\n",
        "[recipe.stage1.phases.main]\nsteps = 20\nwarmup_steps = 2\n",
    ],
)
def test_a_phase_in_a_file_keeps_what_the_file_does_not_name(tmp_path, text):
    (tmp_path / "my.toml").write_text(text)
    (phase,) = resolve(TrainOptions(out=tmp_path, data="digits", config=tmp_path / "my.toml")).recipe.stage1.phases
    assert phase == replace(RECIPES["digits"].stage1.phases[0], steps=20, warmup_steps=2)


def test_the_whole_recipe_of_a_run_takes_the_place_of_the_preset(tmp_path):
    recipe = RECIPES["photos"]  # whose prefix is the usual one, which TOML has no word for
    assert (recipe.tokenizer.prefix, RECIPES["alitok-256-v1"].tokenizer.prefix) == (None, 17)
    (tmp_path / "other.toml").write_text(to_toml({"data": "photos", "seed": 0, "recipe": to_dict(recipe)}))
    request = TrainOptions(out=tmp_path, data="digits", preset="alitok-256-v1", config=tmp_path / "other.toml")
    assert resolve(request).recipe == recipe


def test_the_file_of_a_run_gives_its_recipe(tmp_path):
    recipe = replace(RECIPES["photos"], samples_per_class=3)
    keys = {"data": "photos", "seed": 4, "recipe": to_dict(recipe)}
    (tmp_path / "other.toml").write_text(to_toml(keys))
    resolved = resolve(TrainOptions(out=tmp_path, data="digits", config=tmp_path / "other.toml"))
    assert (resolved.recipe, resolved.data, resolved.seed) == (recipe, "digits", 0)
    (tmp_path / "other.toml").write_text(to_toml(keys | {"samples_per_class": 5}))
    with pytest.raises(AlitokError, match=r"other\.toml: 'samples_per_class' stands beside \[recipe\]"):
        resolve(TrainOptions(out=tmp_path, data="digits", config=tmp_path / "other.toml"))
