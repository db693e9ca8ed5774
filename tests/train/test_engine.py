"""Compiled blocks and bf16: faster forms of the same training."""

import pytest
import torch
from torch import _inductor as inductor

from alitok.core.runlog import read_metrics
from alitok.tokenizer.quantizer import VectorQuantizer
from alitok.train.state import TrainingState
from alitok.train.task import EngineConfig


@pytest.fixture
def compiler():
    """Compiles in this process alone: the usual pool of helpers hangs in the forks of tests with two processes."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with inductor.config.patch(compile_threads=1):
        yield torch._dynamo.utils.counters


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "generator"])
def test_compiled_blocks_train_as_others_do(tmp_path, small, compiler, stage):
    small.run(stage, tmp_path / "eager")
    small.run(stage, tmp_path / "compiled", compile=True)
    # Whole blocks, equal ones together: the encoder's and the decoder's, or the generator's two.
    assert compiler["stats"]["unique_graphs"] == {"stage1": 2, "generator": 1}[stage]
    assert not compiler["graph_break"]
    assert small.same_course(tmp_path / "eager", tmp_path / "compiled")


@pytest.mark.slow
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_compiled_and_sharded_blocks_train_as_others_do(tmp_path, together, small, compiler, activation_checkpointing):
    engine = {"parallel": "fsdp", "compile": True, "activation_checkpointing": activation_checkpointing}
    small.run("generator", tmp_path / "one")
    together(lambda world: small.run("generator", tmp_path / "two", world, **engine))
    assert small.same_course(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("stage", ["stage1", "stage2", "generator"])
def test_in_bf16_losses_stay_near_those_in_float32_and_so_do_all_weights(tmp_path, small, stage):
    small.run(stage, tmp_path / "fp32", precision="fp32")
    task = small.task_of(stage, small.alone)
    state = TrainingState(task, small.loop, EngineConfig(precision="bf16"), tmp_path / "state", small.alone)
    half = []
    state.model.register_forward_hook(
        lambda *_: half.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
    )
    for _, batch in zip(range(small.steps), task.batches(0), strict=False):
        state.advance(batch, lambda: False)
    assert half
    assert set(half) == {torch.bfloat16}
    kept = [*state.model.state_dict().values(), *state.ema.weights.values()]
    kept += [
        value
        for player in state.trained.values()
        for slots in player.optimizer.state.values()
        for value in slots.values()
    ]
    assert {tensor.dtype for tensor in kept if tensor.is_floating_point()} == {torch.float32}
    small.run(stage, tmp_path / "bf16", precision="bf16")
    exact, near = small.course(tmp_path / "fp32"), small.course(tmp_path / "bf16")
    assert [record["loss"] for record in near] == pytest.approx([record["loss"] for record in exact], rel=0.03)
    assert near != exact  # else bf16 was never on


def test_codes_are_found_in_float32_whatever_autocast_says(tmp_path, small, monkeypatch):
    seen = []
    nearest = VectorQuantizer.nearest

    def watched(self, features):
        codes = nearest(self, features)
        distances = (features.double()[..., None, :] - self.codebook.double()).square().sum(-1)
        chosen = distances.gather(-1, codes[..., None])[..., 0]
        seen.append((self.training, features.dtype, (chosen - distances.min(-1).values).max().item()))
        return codes

    monkeypatch.setattr(VectorQuantizer, "nearest", watched)
    task = small.task_of("stage1", small.alone)
    rounded = []
    task.modules["model"].encoder.register_forward_hook(
        lambda encoder, _, features: rounded.append((encoder.training, features.dtype))
    )
    small.run("stage1", tmp_path, task=task, precision="bf16")
    assert {dtype for _, dtype, _ in seen} == {torch.float32}
    # bf16 has 8 bits: distances in it would be off by a hundredth, and other codes be chosen.
    assert max(excess for _, _, excess in seen) < 1e-5
    assert {training for training, _, _ in seen} == {True, False}
    assert set(rounded) == {(True, torch.bfloat16), (False, torch.float32)}  # to look at, nothing is rounded


@pytest.mark.parametrize("stage", ["stage1", "generator"])
def test_sharded_in_bf16_they_train_and_evaluate(tmp_path, together, small, stage):
    small.run(stage, tmp_path / "one", precision="bf16")
    together(lambda world: small.run(stage, tmp_path / "two", world, parallel="fsdp", precision="bf16"))
    one, two = small.course(tmp_path / "one"), small.course(tmp_path / "two")
    assert [record["loss"] for record in two] == pytest.approx([record["loss"] for record in one], rel=0.03)
    looks = [read_metrics(tmp_path / name / "metrics.jsonl")[-1] for name in ("one", "two")]
    name = "val_psnr" if stage == "stage1" else "val_loss"
    assert looks[1][name] == pytest.approx(looks[0][name], rel=0.03)
