import io
import math
import os
import signal

import pytest
import torch
from rich.console import Console
from torch import nn

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics
from alitok.train.loop import Interrupted, train
from alitok.train.optim import OptimizerConfig
from alitok.train.schedule import Convergence, Phase
from alitok.train.task import EngineConfig, Evaluation, LoopConfig, LossTerms


class Regression:
    """A small task with dropout, so that a resume that loses its randomness shows."""

    name = "regression"
    optimizers = {}  # noqa: RUF012

    def __init__(self, steps=30, *, stop_at=None, signal_at=None, number=signal.SIGINT, poisoned=(), phases=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        self.modules = {"model": self.model}
        self.phases = phases or (Phase(steps=steps, learning_rate=1e-2, warmup_steps=min(3, steps)),)
        self.stop_at, self.signal_at, self.number, self.poisoned = stop_at, signal_at, number, poisoned
        self.step = 0

    def to(self, device):
        self.model.to(device)

    def batches(self, start):
        self.step = start
        while True:
            generator = torch.Generator().manual_seed(self.step)
            inputs = torch.randn(8, 4, generator=generator)
            if self.step == self.stop_at:
                raise RuntimeError("pulled the plug")
            if self.step == self.signal_at:
                os.kill(os.getpid(), self.number)
            if self.step in self.poisoned:
                inputs = inputs * math.nan
            self.step += 1
            yield inputs, inputs.sum(1, keepdim=True)

    def begin(self):
        pass

    def losses(self, models, batch, info):
        loss = (models["model"](batch[0]) - batch[1]).square().mean()
        yield LossTerms(loss, {"loss": loss})

    def update(self, world):
        pass

    def report(self):
        return Evaluation()

    def evaluate(self, step):
        return Evaluation({"val": self.model(torch.ones(1, 4)).item()})


def run(task, directory, ema=0.9, clip=1.0, engine=None, console=None, **options):
    optimizer = OptimizerConfig(ema_decay=ema, clip=clip)
    config = LoopConfig(batch_size=8, optimizer=optimizer, **{"log_every": 5, "checkpoint_every": 7, **options})
    console = console or Console(file=io.StringIO())
    return train(task, config, directory, world=World(torch.device("cpu")), seed=0, console=console, engine=engine)


def same_weights(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


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
    assert same_weights(whole.weights, resumed.weights)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


@pytest.mark.parametrize("step", [10, 29])
def test_ctrl_c_finishes_the_step_saves_and_continues_exactly(tmp_path, step):
    whole = run(Regression(), tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"stopped at step {step + 1} of 30"):
        run(Regression(signal_at=step), tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "cut" / "checkpoints" / f"step-{step + 1:08d}").is_dir()
    assert same_weights(whole.weights, run(Regression(), tmp_path / "cut").weights)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    first = run(Regression(), tmp_path)
    task = Regression()
    second = run(task, tmp_path)
    assert task.step == 0  # no batch was drawn
    assert same_weights(first.weights, second.weights)
    assert second.step_seconds == pytest.approx(first.step_seconds)
    assert second.earlier_seconds >= second.step_seconds


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "empty state", "no checksums"])
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    whole = run(Regression(), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="plug"):
        run(Regression(stop_at=19), tmp_path / "cut")
    newest = tmp_path / "cut" / "checkpoints" / "step-00000014"
    weights = newest / "__0_0.distcp"
    content = weights.read_bytes()
    if damage == "flipped":
        weights.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "cut":
        weights.write_bytes(content[:-8])
    elif damage == "gone":
        weights.unlink()
    elif damage == "empty state":
        (newest / "state.json").write_text("{}")
    else:
        (newest / "checksums.json").unlink()
    output = io.StringIO()
    again = run(Regression(), tmp_path / "cut", console=Console(file=output, width=500))
    assert f"Checkpoint {newest} cannot be used" in output.getvalue()
    assert same_weights(whole.weights, again.weights)


def test_when_all_checkpoints_are_damaged_it_says_what_to_delete(tmp_path):
    run(Regression(), tmp_path)
    for weights in tmp_path.glob("checkpoints/*/*.distcp"):
        weights.write_bytes(b"")
    with pytest.raises(AlitokError, match=r"step-00000030 cannot be used.*delete .*checkpoints"):
        run(Regression(), tmp_path)


def test_a_checkpoint_of_another_configuration_is_rejected(tmp_path):
    run(Regression(20), tmp_path)
    with pytest.raises(AlitokError, match=r"conflicting settings: phases"):
        run(Regression(30), tmp_path)


def test_the_ema_is_separate_from_the_trained_weights(tmp_path):
    task = Regression()
    result = run(task, tmp_path)
    assert not same_weights(task.model.state_dict(), result.weights)
    assert same_weights(Regression().model.state_dict(), run(Regression(1), tmp_path / "1", ema=0.0).weights) is False


def test_training_reduces_the_loss_and_only_two_checkpoints_stay(tmp_path):
    run(Regression(200), tmp_path)
    losses = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert losses[-1] < losses[0] / 2
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_sigterm_and_sigint_are_distinguished(tmp_path):
    for number, terminated in ((signal.SIGTERM, True), (signal.SIGINT, False)):
        with pytest.raises(Interrupted) as stopped:
            run(Regression(signal_at=10, number=number), tmp_path / str(number))
        assert stopped.value.terminated is terminated


class Constant(Regression):
    """Without dropout, so that only how the batch is cut can make a difference."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        self.modules = {"model": self.model}


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_microbatches_give_the_gradients_and_the_clipping_of_the_whole_batch(tmp_path, clip):
    def weights(grad_accum_steps):
        torch.manual_seed(1)
        where, engine = tmp_path / f"{grad_accum_steps}", EngineConfig(grad_accum_steps=grad_accum_steps)
        trained = run(Constant(5), where, ema=0.0, clip=clip, engine=engine, log_every=1)
        return trained.weights, [(r["loss"], r["gradient_norm"]) for r in records(where) if "loss" in r]

    whole, cut = weights(1), weights(4)
    assert whole[1] == [pytest.approx(pair, rel=1e-5) for pair in cut[1]]
    for name in whole[0]:
        assert torch.allclose(whole[0][name], cut[0][name], atol=1e-6)


def test_a_batch_that_does_not_divide_is_rejected(tmp_path):
    with pytest.raises(AlitokError, match="batch_size 8 is not divisible by 1 rank x 3 gradient accumulation steps"):
        run(Regression(), tmp_path, engine=EngineConfig(grad_accum_steps=3))


def test_a_step_that_is_not_finite_is_left_out_and_counted(tmp_path):
    class Watched(Regression):
        def losses(self, models, batch, info):
            self.seen = getattr(self, "seen", [])
            self.seen.append([p.detach().clone() for p in self.model.parameters()])
            yield from super().losses(models, batch, info)

    task = Watched(poisoned=(16,))
    run(task, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(task.seen[16], task.seen[17], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(task.seen[17], task.seen[18], strict=True))
    logged = read_metrics(tmp_path / "metrics.jsonl")
    assert [r.get("skipped_steps") for r in logged if "loss" in r] == [None, None, None, 1.0, 1.0, 1.0]
    assert all(math.isfinite(r["loss"]) for r in logged if "loss" in r)


def test_too_many_in_a_row_restore_the_last_checkpoint_and_continue_after_the_bad_batches(tmp_path):
    output = io.StringIO()
    task = Regression(poisoned=(16, 17, 18))
    result = run(task, tmp_path, max_skips=3, console=Console(file=output, width=500))
    assert "not finite in 3 consecutive steps, up to step 19" in output.getvalue()
    assert "restored the checkpoint of step 14 (restore 1 of 3)" in output.getvalue()
    assert result.steps == 30
    assert task.step == 30 + 5  # the batches 14 to 18 were passed over
    assert all(value.isfinite().all() for value in result.weights.values())
    steps = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert steps == [5, 10, 15, 20, 25, 30]


def test_a_run_killed_after_a_restore_ends_with_the_same_weights(tmp_path):
    whole = run(Regression(poisoned=(16, 17, 18)), tmp_path / "whole", max_skips=3)
    for stop_at in (20, 24, 29):  # before and behind the checkpoint that follows the restore
        with pytest.raises(RuntimeError, match="plug"):
            run(Regression(poisoned=(16, 17, 18), stop_at=stop_at), tmp_path / "cut", max_skips=3)
    resumed = run(Regression(poisoned=(16, 17, 18)), tmp_path / "cut", max_skips=3)
    assert same_weights(whole.weights, resumed.weights)


def test_a_training_that_cannot_recover_stops_and_saves_nothing_bad(tmp_path):
    with pytest.raises(AlitokError, match="3 consecutive steps, up to step 17, after 2 restores"):
        run(Regression(poisoned=range(16, 100)), tmp_path, max_skips=3, max_restores=2)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000007", "step-00000014"]
    with pytest.raises(AlitokError, match="no checkpoint exists yet"):
        run(Regression(poisoned=range(100)), tmp_path / "first", max_skips=3)


def test_phases_follow_one_another_inside_the_run_and_a_resume_finds_its_place(tmp_path):
    phases = (
        Phase(name="start", steps=10, learning_rate=1e-2, final_learning_rate=1e-2, warmup_steps=5),
        Phase(name="main", steps=8, learning_rate=5e-3, final_learning_rate=1e-3),
        Phase(name="end", steps=4, learning_rate=1e-3, final_learning_rate=1e-3),
    )
    whole = run(Regression(phases=phases), tmp_path / "whole", log_every=1)
    rates = [record["learning_rate"] for record in records(tmp_path / "whole") if "loss" in record]
    assert len(rates) == 22
    assert rates[:6] == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2])
    assert (rates[10], rates[17], rates[18]) == pytest.approx((5e-3, 1e-3, 1e-3))
    for stop_at in (3, 12, 19):
        with pytest.raises(RuntimeError, match="plug"):
            run(Regression(phases=phases, stop_at=stop_at), tmp_path / "cut", log_every=1, checkpoint_every=2)
    resumed = run(Regression(phases=phases), tmp_path / "cut", log_every=1, checkpoint_every=2)
    assert same_weights(whole.weights, resumed.weights)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


def test_a_phase_whose_loss_has_converged_ends_early_also_after_a_resume(tmp_path):
    rule = Convergence(window=10, improvement=0.05)
    phases = (Phase(name="first", steps=1000, learning_rate=1e-2, converged=rule), Phase(name="last", steps=5))
    output = io.StringIO()
    whole = run(Regression(phases=phases), tmp_path / "whole", console=Console(file=output, width=500))
    assert "Phase 'first' ends at step" in output.getvalue()
    assert 20 < whole.steps < 1005
    with pytest.raises(RuntimeError, match="plug"):
        run(Regression(phases=phases, stop_at=whole.steps - 8), tmp_path / "cut")
    resumed = run(Regression(phases=phases), tmp_path / "cut")
    assert resumed.steps == whole.steps
    assert same_weights(whole.weights, resumed.weights)


@pytest.mark.parametrize("name", ["batch_size", "log_every", "checkpoint_every", "keep", "max_skips"])
def test_counts_below_one_are_rejected(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        LoopConfig(**{"batch_size": 1, name: 0})
