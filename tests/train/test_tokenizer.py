import dataclasses
import io
import re

import numpy as np
import pytest
import torch
from rich.console import Console

from alitok.core.distributed import World
from alitok.core.runlog import read_metrics
from alitok.losses.objective import LossWeights
from alitok.tokenizer import Tokenizer
from alitok.train.loop import train
from alitok.train.optim import OptimizerConfig
from alitok.train.predictability import PredictabilityConfig
from alitok.train.task import LoopConfig
from alitok.train.tokenizer import TokenizerPhase, TokenizerTask, TokenizerTraining
from tiny import TOKENIZER

CONFIG = dataclasses.replace(TOKENIZER, image_size=8, patch_size=2)


def some_images(step, batch=8):
    """Flat images in random colours."""
    colours = np.random.default_rng(step).integers(0, 256, (batch, 3, 1, 1))
    return np.broadcast_to(colours, (batch, 3, 8, 8)).astype(np.uint8)


def batches(start_step):
    step = start_step
    while True:
        yield torch.from_numpy(some_images(step)), torch.zeros(8, dtype=torch.int64)
        step += 1


# With the full quantizer weight and no feature network, features this small collapse before anything is learnt.
WEIGHTS = LossWeights(quantizer=0.3)


def training(steps=40, losses=WEIGHTS, evaluate_every=100, **options):
    optimizer = OptimizerConfig(weight_decay=0.1, ema_decay=0.9)
    loop = LoopConfig(batch_size=8, optimizer=optimizer, log_every=10, evaluate_every=evaluate_every)
    phases = (TokenizerPhase(steps=steps, learning_rate=5e-3, losses=losses),)
    return TokenizerTraining(**{"loop": loop, "phases": phases, **options})


def run(tokenizer, stage, directory, steps=40, settings=None, **options):
    settings = settings or training(steps)
    task = TokenizerTask(tokenizer, stage, settings, batches, some_images(10_000, 20), **options)
    console, world = Console(file=io.StringIO()), World(torch.device("cpu"))
    weights = train(task, settings.loop, directory, world=world, seed=0, console=console).weights
    tokenizer.load_state_dict(weights)
    return tokenizer


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(CONFIG)


def test_stage2_leaves_everything_but_its_decoder_bit_for_bit(tokenizer, tmp_path):
    tokenizer = run(tokenizer, "stage1", tmp_path / "1", steps=10)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    after = run(tokenizer, "stage2", tmp_path / "2", steps=10).state_dict()
    frozen = [name for name in before if not name.startswith("stage2.")]
    assert {name.split(".")[0] for name in frozen} == {"encoder", "quantizer", "stage1"}
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in before if name.startswith("stage2.") and not torch.equal(before[name], after[name])]
    assert len(moved) == sum(name.startswith("stage2.") for name in before)


def test_stage1_trains_all_its_parts_and_clusters_the_codebook(tokenizer, tmp_path):
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    after = run(tokenizer, "stage1", tmp_path, steps=10).state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("stage2."), name
    assert after["quantizer.usage"].sum() > 0


def test_both_stages_learn_and_log_their_validation(tokenizer, tmp_path):
    looked_at = some_images(10_000, 20) / 255
    grey = -10 * np.log10(((looked_at - looked_at.mean((0, 2, 3), keepdims=True)) ** 2).mean((1, 2, 3))).mean()
    for stage in ("stage1", "stage2"):
        tokenizer = run(tokenizer, stage, tmp_path / stage, steps=400)
        records = read_metrics(tmp_path / stage / "metrics.jsonl")
        decibels = [record["val_psnr"] for record in records if "val_psnr" in record]
        assert decibels[-1] > grey + 1  # better than one colour for all
        assert 0 < records[-1]["val_codebook_use"] <= 1
        assert (tmp_path / stage / "images" / "reconstructions-000400.png").exists()


def test_predictability_is_logged_when_due_and_changes_no_weight(tokenizer, tmp_path):
    start = {name: value.clone() for name, value in tokenizer.state_dict().items()}

    def run_with(every, where):
        tokenizer.load_state_dict(start)
        probe = PredictabilityConfig(every=every, images=24, val_images=16, steps=5, batch_size=8, width=16)
        settings = training(30, evaluate_every=5, predictability=probe)
        run(tokenizer, "stage1", where, settings=settings, predictability_images=some_images(10_001, 32))
        weights = {name: value.clone() for name, value in tokenizer.state_dict().items()}
        records = read_metrics(where / "metrics.jsonl")
        probed = {record["step"]: record for record in records if "predictability_accuracy" in record}
        left_out = re.compile("predictability|images_per_second")
        others = [{k: value for k, value in record.items() if not left_out.search(k)} for record in records]
        return weights, others, probed

    plain, records, never = run_with(0, tmp_path / "plain")
    weights, others, probed = run_with(10, tmp_path / "probed")
    assert (never, list(probed)) == ({}, [10, 20, 30])
    assert all(torch.equal(plain[name], weights[name]) for name in plain)
    assert records == others
    for record in probed.values():
        assert 0 <= record["predictability_accuracy"] <= 1
        assert 0 < record["predictability_grid_bits_per_image"] < record["predictability_bits_per_image"]
    # After so few steps it knows next to nothing: each of the 20 codes is about one of 16.
    assert probed[30]["predictability_bits_per_image"] == pytest.approx(20 * 4, rel=0.2)


def test_a_predictability_interval_that_never_occurs_is_rejected():
    with pytest.raises(ValueError, match=r"predictability.every 7 must be a multiple of loop.evaluate_every 100"):
        training(predictability=PredictabilityConfig(every=7))
