"""The time of a step, extrapolated from few examples where a whole one would take long."""

import dataclasses

import pytest
import torch

from alitok.core.distributed import World
from alitok.recipes.presets import RECIPES
from alitok.run import estimate
from alitok.run.estimate import noise_splits, step_seconds
from alitok.run.tasks import Trainings
from alitok.train.state import TrainingState


@pytest.fixture
def steps(monkeypatch):
    """Examples of each step that is taken; a step takes two seconds and `steps.each` for every example."""
    taken = []
    clock = [0.0]

    def advance(self, batch, stop):
        taken.append(len(batch[0]))
        clock[0] += 2.0 + each[0] * len(batch[0])
        return False, []

    each = [0.0]
    monkeypatch.setattr(TrainingState, "advance", advance)
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: clock[0])
    return taken, each


def seconds_of(tmp_path, grad_accum_steps):
    recipe = RECIPES["digits"]
    recipe = dataclasses.replace(recipe, engine=dataclasses.replace(recipe.engine, grad_accum_steps=grad_accum_steps))
    splits = noise_splits(tuple("0123456789"), recipe)
    trainings = Trainings(recipe, splits, World(torch.device("cpu")), tmp_path, 0)
    return step_seconds(trainings.stage("stage1", rehearsal=True), trainings)


@pytest.mark.parametrize(
    ("each", "grad_accum_steps", "last"), [(10.0, 1, [4, 4, 8]), (10.0, 4, [16, 16, 32]), (0.1, 1, [64, 64, 64])]
)
def test_only_long_steps_are_estimated_from_a_few_examples_of_every_microbatch(
    steps, tmp_path, each, grad_accum_steps, last
):
    taken, seconds = steps
    seconds[0] = each
    assert seconds_of(tmp_path, grad_accum_steps) == [pytest.approx(2 + each * 64)]
    assert taken[-3:] == last
    assert (len(taken) > 3) == (each == 0.1)
