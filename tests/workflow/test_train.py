"""Training stage by stage through the command line, alone and under torchrun."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from alitok.core.errors import AlitokError
from alitok.jobs.pipeline import Pipeline
from alitok.workflow.train import TrainOptions, resolve, run_training

SMALL = (
    "tokenizer.encoder.layers=1",
    "tokenizer.stage1.layers=1",
    "tokenizer.stage2.layers=1",
    "stage1.phases.main.steps=40",
    "stage1.phases.main.warmup_steps=6",
    "stage1.loop.checkpoint_every=10",
    "stage2.phases.main.steps=8",
    "stage2.phases.main.warmup_steps=4",
    "generator_size.layers=1",
    "generator.phases.main.steps=8",
    "generator.phases.main.warmup_steps=4",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def options(stage, out, **changes):
    return TrainOptions(**{"stage": stage, "out": out, "data": "digits", "device": "cpu", **changes})


def command(*words, processes=1):
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *start, "-m", "alitok", "train", *map(str, words), "--device", "cpu"]


def weights(out):
    return load_file(out / "stage1" / "tokenizer" / "encoder.safetensors")


def same(first, second):
    return all((first[name] == second[name]).all() for name in first)


def test_later_stages_take_data_and_recipe_from_the_run(tmp_path):
    with pytest.raises(AlitokError, match="name the pictures with --data"):
        resolve(options("stage2", tmp_path, data=None))
    with pytest.raises(AlitokError, match=r"no finished stage1.*alitok train stage1"):
        run_training(options("stage2", tmp_path))
    run_training(options("stage1", tmp_path, overrides=SMALL, seed=4))
    found = resolve(options("stage2", tmp_path, data=None))
    assert (found.data, found.seed, found.recipe.tokenizer.encoder.layers) == ("digits", 4, 1)
    with pytest.raises(AlitokError, match=r"other settings \(recipe.tokenizer.code_width\)"):
        run_training(options("stage2", tmp_path, data=None, overrides=("tokenizer.code_width=8",)))
    # What nothing depends on yet may still be chosen.
    run_training(options("stage2", tmp_path, data=None, overrides=("stage2.phases.main.steps=6",)))
    run_training(options("generator", tmp_path, data=None))
    assert len(Pipeline.from_pretrained(tmp_path / "model", device="cpu")(["3"], seed=0)) == 1


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    run_training(options("generator", tmp_path / "run", preset="alitok-256", size="XL", dry_run=True))
    assert "250,228" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_perceptual_weight_moves_to_the_network_asked_for(tmp_path):
    recipe = resolve(options("stage1", tmp_path, preset="alitok-256", perceptual="local")).recipe
    assert [phase.losses.networks() for phase in recipe.stage1.phases] == [("local",)] * 3
    assert recipe.stage1.phases[0].losses.local == pytest.approx(1.1)
    recipe = resolve(options("stage1", tmp_path, preset="alitok-256", perceptual="none")).recipe
    assert recipe.stage2.networks() == ()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("processes", [1, 2])
def test_stopped_by_the_system_and_started_again_it_ends_with_the_same_bits(tmp_path, number, processes):
    words = ["stage1", "--data", "digits", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        process = subprocess.Popen(
            command(*words, out, "--set", *SMALL, processes=processes),
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if out == cut:
            until = time.monotonic() + 120
            while not (cut / "stage1" / "checkpoints" / "step-00000010").exists() and time.monotonic() < until:
                time.sleep(0.001)
            process.send_signal(number)
        said = process.communicate(timeout=120)[0]
        if out == cut and number == signal.SIGTERM and processes == 1:
            assert process.returncode == 0, said
            assert "Traceback" not in said
    subprocess.run(command(*words, cut, processes=processes), env=ENVIRONMENT, check=True, capture_output=True)
    assert same(weights(whole), weights(cut))
