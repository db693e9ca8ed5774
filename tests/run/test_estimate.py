"""The time of a step, told from few examples where a whole one would take long."""

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


def seconds_of(tmp_path, grad_accum_steps=1):
    recipe = RECIPES["digits"]
    recipe = dataclasses.replace(recipe, engine=dataclasses.replace(recipe.engine, grad_accum_steps=grad_accum_steps))
    splits = noise_splits(tuple("0123456789"), recipe)
    trainings = Trainings(recipe, splits, World(torch.device("cpu")), tmp_path, 0)
    return step_seconds(trainings.stage("stage1", rehearsal=True), trainings)


def test_long_steps_are_estimated_from_few_images(steps, tmp_path):
    taken, each = steps
    each[0] = 10.0
    assert seconds_of(tmp_path) == [pytest.approx(2 + 10 * 64)]
    assert taken == [4, 4, 8]


def test_few_examples_are_as_many_for_every_microbatch(steps, tmp_path):
    taken, each = steps
    each[0] = 10.0
    assert seconds_of(tmp_path, grad_accum_steps=4) == [pytest.approx(2 + 10 * 64)]
    assert taken == [16, 16, 32]


def test_short_steps_are_taken_whole(steps, tmp_path):
    taken, each = steps
    each[0] = 0.1
    assert seconds_of(tmp_path) == [pytest.approx(2 + 0.1 * 64)]
    assert taken[-3:] == [64, 64, 64]
