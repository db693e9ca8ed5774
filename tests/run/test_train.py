"""Training stage by stage through the command line, alone and under torchrun."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics
from alitok.data.codes import CodeStore
from alitok.recipes.presets import RECIPES
from alitok.run import run
from alitok.run.options import TrainOptions
from alitok.run.resolve import resolve
from alitok.run.train import run_training, schedule
from alitok.sampling.pipeline import Pipeline
from alitok.train.optim import OptimizerConfig
from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig

SMALL = (
    *(f"{part}.layers=1" for part in ("tokenizer.encoder", "tokenizer.stage1", "tokenizer.stage2", "generator_size")),
    *(f"{stage}.phases.main.steps={steps}" for stage, steps in (("stage1", 40), ("stage2", 8), ("generator", 8))),
    *(f"{stage}.phases.main.warmup_steps=4" for stage in ("stage1", "stage2", "generator")),
    "stage1.loop.checkpoint_every=10",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def options(out, **changes):
    return TrainOptions(**{"out": out, "data": "digits", "device": "cpu", **changes})


def command(*words, processes=1, launcher=()):
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *launcher] if processes > 1 else []
    return [sys.executable, *start, "-m", "alitok", "train", *map(str, words), "--device", "cpu"]


def weights_of(out):
    """Written when the stage is finished."""
    return out / "stage1" / "tokenizer" / "encoder.safetensors"


def same(first, second):
    return all((first[name] == second[name]).all() for name in first)


def test_later_stages_take_data_and_recipe_from_the_run(tmp_path):
    with pytest.raises(AlitokError, match="name the images with --data"):
        resolve(options(tmp_path, data=None))
    with pytest.raises(AlitokError, match=r"no finished stage1.*alitok train stage1"):
        run_training("stage2", options(tmp_path))
    run_training("stage1", options(tmp_path, overrides=SMALL, seed=4))
    found = resolve(options(tmp_path, data=None))
    assert (found.data, found.seed, found.recipe.tokenizer.encoder.layers) == ("digits", 4, 1)
    with pytest.raises(AlitokError, match=r"conflicting settings: recipe.tokenizer.code_width \(.*, now 8\);"):
        run_training("stage2", options(tmp_path, data=None, overrides=("tokenizer.code_width=8",)))
    # What nothing depends on yet may still be chosen.
    run_training("stage2", options(tmp_path, data=None, overrides=("stage2.phases.main.steps=6",)))
    run_training("generator", options(tmp_path, data=None))
    assert len(Pipeline.from_pretrained(tmp_path / "model", device="cpu")(["3"], seed=0)) == 1


def test_a_store_with_missing_shards_is_not_finished(tmp_path, monkeypatch):
    few = (*SMALL, "stage1.phases.main.steps=2", "stage1.phases.main.warmup_steps=1")
    run_training("stage1", options(tmp_path, overrides=few))
    encode = run.encode_store
    monkeypatch.setattr(run, "encode_store", lambda *words, **names: replace(encode(*words, **names), whole=False))
    with pytest.raises(AlitokError, match=r"codes/train lacks shards .* run the same command again"):
        run_training("generator", options(tmp_path, data=None))
    assert not (tmp_path / "done" / "encode.json").exists()
    monkeypatch.undo()
    run_training("generator", options(tmp_path, data=None))


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    run_training("generator", options(tmp_path / "run", preset="alitok-256", size="XL", dry_run=True))
    assert "250,228" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_perceptual_weight_moves_to_the_requested_network(tmp_path):
    recipe = resolve(options(tmp_path, preset="alitok-256", perceptual="local")).recipe
    assert [phase.losses.networks() for phase in recipe.stage1.phases] == [("local",)] * 3
    assert recipe.stage1.phases[0].losses.local == pytest.approx(1.1)
    recipe = resolve(options(tmp_path, preset="alitok-256", perceptual="none")).recipe
    assert recipe.stage2.networks() == ()


def test_a_generator_on_ten_crops_reads_one_of_each_image_in_an_epoch(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    batches = "stage1.loop.batch_size=8", "generator.loop.batch_size=18"
    overrides = (*SMALL, *batches, "generator.phases.main.steps=12", "crops=ten")
    asked = options(tmp_path / "run", data=str(tmp_path / "images"), preset="digits", overrides=overrides)
    run_training("stage1", asked)
    rows, read = [], CodeStore.codes

    def watched(store, wanted):
        rows.append((store.path.name, wanted))
        return read(store, wanted)

    monkeypatch.setattr(CodeStore, "codes", watched)
    run_training("generator", options(tmp_path / "run", data=None))
    store = CodeStore(tmp_path / "run" / "codes" / "train")
    assert (store.images, store.crops, len(store)) == (54, 10, 540)
    drawn = np.concatenate([wanted for name, wanted in rows if name == "train"])
    epochs = drawn.reshape(4, store.images)
    assert all(sorted(epoch // store.crops) == list(range(store.images)) for epoch in epochs)
    assert {tuple(sorted(epoch)) for epoch in epochs.tolist()} != {tuple(sorted(epochs[0].tolist()))}
    assert set(drawn % store.crops) == set(range(store.crops))
    assert read_metrics(tmp_path / "run" / "generator" / "metrics.jsonl")[-1]["step"] == 12


def test_the_schedule_counts_steps_images_and_epochs():
    phases = (Phase(name="a", steps=10, learning_rate=1e-3), Phase(name="b", steps=30, warmup_steps=5))
    rows = schedule(phases, LoopConfig(batch_size=64), images=160)
    assert [row[:4] for row in rows] == [("a", "0 + 10", "640", "4.0"), ("b", "10 + 30", "1,920", "12.0")]
    assert rows[1][5] == "5"


def test_the_schedule_shows_learning_rates_scaled_by_the_batch():
    loop = LoopConfig(batch_size=512, optimizer=OptimizerConfig(rate_rule="sqrt"))
    (row,) = schedule((Phase(steps=1, learning_rate=1e-3, final_learning_rate=1e-5),), loop, images=1)
    assert row[4] == "0.0005 to 5e-06"


def test_the_published_recipes_have_the_published_lengths():
    imagenet = 1_281_167
    for name, stage1_steps in (("alitok-256", 600_000), ("alitok-256-v1", 350_000)):
        recipe = RECIPES[name]
        assert sum(phase.steps for phase in recipe.stage1.phases) == stage1_steps
        assert sum(phase.steps for phase in recipe.stage2.phases) == 300_000
        (generator,) = schedule(recipe.generator.phases, recipe.generator.loop, imagenet)
        assert generator[3] == "800.0"  # ten stored crops make no epoch longer


def test_the_schedule_lists_the_loss_terms_of_each_phase():
    recipe = RECIPES["alitok-256"]
    rows = schedule(recipe.stage1.phases, recipe.stage1.loop, 1)
    assert rows[0][-1] == "1 mse, 0.1 convnext, 1 lpips, 1 quantizer, 1 auxiliary"
    assert rows[2][-1].endswith("0.1 adversarial, discriminator on, 1")
    frozen = schedule(recipe.stage2.phases, recipe.stage2.loop, 1, frozen_codes=True)
    assert frozen[1][-1] == "1 mse, 1 convnext"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_stopped_by_the_system_and_started_again_it_ends_with_the_same_bits(tmp_path, processes):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(stage1(whole, processes), env=ENVIRONMENT, check=True, capture_output=True)

    process, _ = started(cut, processes, until="step-00000010")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[0]
    if processes == 1:
        assert process.returncode == 0, said
        assert "Traceback" not in said
    assert not weights_of(cut).exists(), "it was stopped too late to prove anything"

    process, below = started(cut, processes, until="step-00000040")
    for member in below[:1] if processes > 1 else [process.pid]:
        os.kill(member, signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    if processes > 1:  # the other one says what happened, and torchrun that it was a signal
        assert process.returncode == 1, said
        assert re.search(
            r"Process \d lost another process of this run: it was killed.* Progress saved; rerun the same command", said
        )
        assert "Unexpected" not in said
        assert "Signal 9 (SIGKILL)" in said
    assert not weights_of(cut).exists(), "it was killed too late to prove anything"

    subprocess.run(stage1(cut, processes), env=ENVIRONMENT, check=True, capture_output=True)
    assert same(load_file(weights_of(whole)), load_file(weights_of(cut)))


def stage1(out, processes, steps=60, launcher=()):
    few = "--set", *SMALL, f"stage1.phases.main.steps={steps}"
    return command("stage1", "--data", "digits", "--out", out, *few, processes=processes, launcher=launcher)


def started(out, processes, *launcher, until="step-00000010", steps=60, shell=None):
    """A training that has written a checkpoint and goes on, and the processes below it."""
    words = stage1(out, processes, steps, launcher)
    process = subprocess.Popen(
        words if shell is None else ["bash", "-c", shell, *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not (out / "stage1" / "checkpoints" / until).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return process, [int(number) for number in children.split()]


# What a job of a scheduler can do so that it ends with 0: its script, which gets the signal, passes it on to the
# processes below torchrun instead of to torchrun.
SCRIPT = """
"$0" "$@" & launcher=$!
trap 'pkill -TERM -P $launcher' TERM
wait $launcher  # ended by the signal
wait $launcher
"""


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "one process", "all processes", "script"])
def test_under_torchrun_sigterm_saves_and_ends_in_time_without_a_traceback_of_ours(tmp_path, whom):
    """torchrun passes the signal on, waits for its processes, and ends with 1, as it does for whatever signal it gets.

    Where the training processes get it themselves, even if only one of them does, all end with 0, and so does torchrun.
    """
    shell = SCRIPT if whom == "script" else None
    options = "--log-dir", str(tmp_path / "log"), "--redirects", "3"
    process, below = started(tmp_path / "run", 2, *options, steps=4000, shell=shell)
    asked = {"one process": below[:1], "all processes": below}.get(whom, [process.pid])
    assert len(below) == (1 if whom == "script" else 2)
    for number in asked:
        os.kill(number, signal.SIGTERM)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == (1 if whom == "launcher" else 0), said
    assert ("Traceback" in said) == (whom == "launcher")  # its own, of a SignalException
    written = {path: path.read_text() for path in (tmp_path / "log").rglob("std*.log")}
    assert len(written) == 4
    assert all("Traceback" not in text for text in written.values()), written
    (stopped,) = [text for text in written.values() if "alitok: Stopped" in text]
    newest = max((tmp_path / "run" / "stage1" / "checkpoints").iterdir())
    assert f"stage1 stopped at step {int(newest.name.removeprefix('step-'))} of 4000" in stopped
