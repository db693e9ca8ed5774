"""The rehearsal on one batch: what it measures, and that it sees what is wrong."""

import dataclasses

import pytest
import torch
from torch import nn

from alitok.core.distributed import World
from alitok.train.overfit import DISTINCT, overfit_one_batch, overfit_phases, repeat_examples
from alitok.train.schedule import Convergence, Phase
from alitok.train.task import EngineConfig


def rehearsal(
    small, stage="stage1", world=None, change=lambda model: None, enough=lambda value, losses: True, **engine
):
    world = world or small.alone
    task = small.task_of(stage, world)
    task.phases = overfit_phases(task.phases)
    change(task.modules["model"])
    batch = repeat_examples(next(task.batches(0)), world)
    found = overfit_one_batch(
        task,
        small.loop,
        EngineConfig(**engine),
        world,
        batch=batch,
        seed=0,
        measure=lambda model: float(next(model.parameters()).requires_grad),
        enough=enough,
    )
    return task, found


def test_phases_keep_their_rate_and_their_losses_but_are_short():
    phases = (
        Phase(name="first", steps=50_000, learning_rate=3e-4, warmup_steps=10_000, converged=Convergence()),
        Phase(name="last", steps=9, learning_rate=1e-5, final_learning_rate=1e-6),
    )
    first, last = overfit_phases(phases)
    assert (first.name, first.learning_rate, first.final_learning_rate) == ("first", 3e-4, 3e-4)
    assert first.warmup_steps < 50
    assert first.converged is None
    assert (last.name, last.learning_rate, last.steps < 10) == ("last", 1e-5, True)


@pytest.mark.parametrize("size", [1, 2])
def test_few_examples_fill_the_batch(size):
    world = World(torch.device("cpu"), 0, size)
    batch = torch.arange(100), torch.arange(100) + 1
    values, labels = repeat_examples(batch, world)
    assert len(values) == 100
    assert values.unique().tolist() == list(range(DISTINCT // size))
    assert torch.equal(values + 1, labels)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "generator"])
def test_all_phases_are_gone_through_and_every_part_is_reached(small, stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, found = rehearsal(small, stage)
    assert list(found.seconds) == [phase.name for phase in task.phases]
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert (found.idle, found.disturbed, found.failed_at) == ((), (), None)
    assert len(found.losses) == 25  # it was enough at the first measure
    assert found.losses[-1] < found.losses[0]
    assert found.peak_bytes > 1e8
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_it_goes_on_until_it_is_enough(small, monkeypatch):
    monkeypatch.setattr("alitok.train.overfit.STEPS", 60)
    _, found = rehearsal(small, "generator", enough=lambda value, losses: False)
    assert len(found.losses) == 60


@pytest.mark.parametrize("engine", [{}, {"parallel": "fsdp"}, {"grad_accum_steps": 2}])
def test_two_ranks_see_the_same(small, together, engine):
    first, second = together(lambda world: rehearsal(small, world=world, **engine)[1])
    assert dataclasses.replace(first, seconds={}) == dataclasses.replace(second, seconds={})
    assert (first.idle, first.disturbed) == ((), ())


def unused(model):
    model.encoder.forgotten = nn.Parameter(torch.ones(3))


def poisoned(model):
    nn.init.constant_(model.encoder.norm_out.weight, torch.nan)


def test_a_parameter_that_takes_no_part_is_named(small, together):
    _, found = rehearsal(small, change=unused)
    assert found.idle == ("encoder.forgotten",)
    pair = together(lambda world: rehearsal(small, world=world, change=unused)[1])
    assert [found.idle for found in pair] == [("encoder.forgotten",)] * 2


def test_a_loss_without_weight_leaves_its_part_still(small):
    task = small.task_of("stage1", small.alone)
    phases = [
        dataclasses.replace(phase, losses=dataclasses.replace(phase.losses, auxiliary=0.0)) for phase in task.phases
    ]
    task.phases = overfit_phases(tuple(phases))
    batch = repeat_examples(next(task.batches(0)), small.alone)
    measure = {"measure": lambda model: 0.0, "enough": lambda value, losses: True}
    found = overfit_one_batch(task, small.loop, EngineConfig(), small.alone, batch=batch, seed=0, **measure)
    assert found.idle == ()
    assert {name.rpartition(".")[0] for name in found.still} == {
        "stage1.prefix_head.to_pixels",
        "stage1.prefix_head.mix",
    }


def test_a_gradient_of_a_frozen_part_is_named(small):
    def disturb(model):
        kept = model.encoder.norm_out.weight
        kept.requires_grad_(False)
        kept.grad = torch.ones_like(kept)

    assert rehearsal(small, change=disturb)[1].disturbed == ("encoder.norm_out.weight",)


def test_it_ends_at_the_first_step_that_is_not_finite(small, together):
    for found in [
        rehearsal(small, change=poisoned)[1],
        *together(lambda world: rehearsal(small, world=world, change=poisoned)[1]),
    ]:
        assert (found.failed_at, found.losses) == (1, [])
