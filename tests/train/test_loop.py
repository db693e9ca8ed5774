import io
import math
import os
import signal

import pytest
import torch
from rich.console import Console
from torch import nn

from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics
from alitok.train.loop import Interrupted, train
from alitok.train.optim import OptimizerConfig
from alitok.train.task import Evaluation, LoopConfig


class Regression:
    """A small task with dropout, so that a resume that loses its randomness shows."""

    name = "regression"

    def __init__(self, stop_at=None, signal_at=None, poison_at=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        self.stop_at, self.signal_at, self.poison_at = stop_at, signal_at, poison_at
        self.step = 0

    def batches(self, start_step):
        self.step = start_step
        while True:
            generator = torch.Generator().manual_seed(self.step)
            inputs = torch.randn(8, 4, generator=generator)
            if self.step == self.stop_at:
                raise RuntimeError("pulled the plug")
            if self.step == self.signal_at:
                os.kill(os.getpid(), signal.SIGINT)
            if self.step == self.poison_at:
                inputs = inputs * math.nan
            self.step += 1
            yield inputs, inputs.sum(1, keepdim=True)

    def losses(self, batch):
        return {"loss": (self.model(batch[0]) - batch[1]).square().mean()}

    def after_backward(self):
        pass

    def evaluate(self, model):
        return Evaluation({"heldout": model(torch.ones(1, 4)).item()})


def run(task, directory, steps=30, ema=0.9, **options):
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=3, ema_decay=ema)
    config = LoopConfig(
        steps=steps, batch_size=8, optimizer=optimizer, **{"log_every": 5, "checkpoint_every": 7, **options}
    )
    console = Console(file=io.StringIO())
    return train(task, config, directory, device=torch.device("cpu"), seed=0, console=console)


def same_weights(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def records(directory):
    """What was recorded, less the only number that depends on the clock."""
    return [
        {name: value for name, value in record.items() if name != "images_per_second"}
        for record in read_metrics(directory / "metrics.jsonl")
    ]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_crashed_run_continues_to_bit_identical_weights_and_records(tmp_path, ema):
    whole = run(Regression(), tmp_path / "whole", ema=ema)
    with pytest.raises(RuntimeError, match="plug"):
        run(Regression(stop_at=19), tmp_path / "cut", ema=ema)
    resumed = run(Regression(), tmp_path / "cut", ema=ema)
    assert same_weights(whole.model, resumed.model)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


@pytest.mark.parametrize("step", [10, 29])
def test_ctrl_c_finishes_the_step_saves_and_continues_exactly(tmp_path, step):
    whole = run(Regression(), tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"stopped at step {step + 1} of 30"):
        run(Regression(signal_at=step), tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "cut" / "checkpoints" / f"step-{step + 1:08d}").is_dir()
    assert same_weights(whole.model, run(Regression(), tmp_path / "cut").model)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    first = run(Regression(), tmp_path)
    task = Regression()
    second = run(task, tmp_path)
    assert task.step == 0  # no batch was drawn
    assert same_weights(first.model, second.model)
    assert second.step_seconds == pytest.approx(first.step_seconds)
    assert second.earlier_seconds >= second.step_seconds


@pytest.mark.parametrize("damage", ["cut", "gone", "empty state"])
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    whole = run(Regression(), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="plug"):
        run(Regression(stop_at=19), tmp_path / "cut")
    newest = tmp_path / "cut" / "checkpoints" / "step-00000014"
    weights = newest / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "gone":
        weights.unlink()
    else:
        (newest / "state.json").write_text("{}")
    assert same_weights(whole.model, run(Regression(), tmp_path / "cut").model)


def test_when_all_checkpoints_are_damaged_it_says_what_to_delete(tmp_path):
    run(Regression(), tmp_path)
    for weights in tmp_path.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(AlitokError, match=r"step-00000030 cannot be used.*delete .*checkpoints"):
        run(Regression(), tmp_path)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    run(Regression(), tmp_path, steps=20)
    with pytest.raises(AlitokError, match="another configuration"):
        run(Regression(), tmp_path, steps=30)


def test_the_average_is_kept_apart_from_the_trained_weights(tmp_path):
    task = Regression()
    result = run(task, tmp_path)
    assert not same_weights(task.model, result.model)
    assert not result.model.training


def test_training_reduces_the_loss_and_only_two_checkpoints_stay(tmp_path):
    run(Regression(), tmp_path, steps=200)
    losses = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert losses[-1] < losses[0] / 2
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(("log_every", "said"), [(5, "The loss .* at step 20"), (100, "A weight .* at step 21")])
def test_what_is_not_finite_stops_and_is_never_saved(tmp_path, log_every, said):
    with pytest.raises(AlitokError, match=rf"{said}.*step-00000014"):
        run(Regression(poison_at=16), tmp_path, log_every=log_every)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000007", "step-00000014"]


@pytest.mark.parametrize("name", ["steps", "batch_size", "log_every", "checkpoint_every", "keep"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        LoopConfig(**{"steps": 1, "batch_size": 1, name: 0})
