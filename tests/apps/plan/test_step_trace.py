"""A step that is only followed, against real ones that PyTorch's profiler and counter watch."""

import dataclasses
import itertools

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from alitok.apps.plan.step_trace import Rehearsal
from alitok.core.distributed import World
from alitok.losses.adversarial import DiscriminatorConfig
from alitok.losses.objective import LossWeights
from alitok.recipes.presets import RECIPES, GeneratorSize
from alitok.run.estimate import generator_on_noise, noise_splits
from alitok.run.tasks import Trainings
from alitok.train.adversary import AdversaryConfig
from alitok.train.state import TrainingState
from alitok.train.task import EngineConfig, StepInfo

ALONE = World(torch.device("cpu"))
CLASSES = tuple("0123456789")


def recipe_with(stage, *, local=False, discriminator=False, batch=8):
    """The recipe of digits with other losses, in one phase."""
    recipe = RECIPES["digits"]
    training = recipe.training(stage)
    loop = dataclasses.replace(training.loop, batch_size=batch)
    phase = dataclasses.replace(training.phases[0], steps=3, warmup_steps=0)
    changes = {"loop": loop, "phases": (phase,)}
    if stage != "generator":
        losses = LossWeights(local=1.0 if local else 0.0, adversarial=0.1 if discriminator else 0.0)
        changes["phases"] = (dataclasses.replace(phase, losses=losses, discriminator=discriminator),)
        changes["adversary"] = AdversaryConfig(network=DiscriminatorConfig(width=32, stages=2, regions=4))
    size = GeneratorSize(layers=3, width=64, heads=4, dropout=0.1)
    return dataclasses.replace(recipe, generator_size=size, **{stage: dataclasses.replace(training, **changes)})


def state_of(recipe, stage, directory):
    """A real training, before its first step, and a batch for it."""
    trainings = Trainings(recipe, noise_splits(CLASSES, recipe), ALONE, directory, 0)
    training = generator_on_noise(trainings) if stage == "generator" else trainings.stage(stage, rehearsal=True)
    state = TrainingState(training.task, training.loop, recipe.engine, directory, ALONE)
    return state, next(training.task.batches(0))


def allocated(work):
    """The most that is allocated at a time while `work` runs, as the profiler has it.

    What an operation takes and gives back within itself is a kernel's workspace, which is not followed: how much a
    convolution takes depends on the processor's instructions.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    changes, taken = [], {}
    for event in in_order(seen.profiler.kineto_results.experimental_event_tree()):
        kind, field = event.typed
        if kind != _EventType.Allocation:
            continue
        before, inside = taken.pop(field.ptr, (None, None))
        if field.alloc_size < 0 and inside is not None and inside is event.parent:
            changes[before] = 0
            continue
        if field.alloc_size > 0:
            taken[field.ptr] = len(changes), event.parent
        changes.append(field.alloc_size)
    return max(itertools.accumulate(changes))


def in_order(events):
    """Of a tree of events, all as they began."""
    found, left = [], list(events)
    while left:
        event = left.pop()
        found.append(event)
        left += event.children
    return sorted(found, key=lambda event: event.start_time_ns)


CASES = {
    "stage1": ("stage1", {}, {}),
    "stage1 with all losses": ("stage1", {"local": True, "discriminator": True}, {}),
    "stage1 in bf16": ("stage1", {}, {"precision": "bf16"}),
    "stage1 recomputed": ("stage1", {}, {"activation_checkpointing": True}),
    "stage2 with a discriminator": ("stage2", {"discriminator": True}, {}),
    "generator": ("generator", {}, {}),
    "generator in two microbatches": ("generator", {}, {"grad_accum_steps": 2}),
    "generator recomputed in bf16": ("generator", {}, {"activation_checkpointing": True, "precision": "bf16"}),
}


@pytest.mark.parametrize("case", CASES)
def test_memory_of_a_real_step(case, tmp_path):
    stage, losses, engine = CASES[case]
    recipe = dataclasses.replace(recipe_with(stage, **losses), engine=EngineConfig(**{"precision": "fp32"} | engine))
    state, batch = state_of(recipe, stage, tmp_path)
    state.advance(batch, lambda: False)  # what is made once, as by the first use of a kernel, is no part of a step
    for part in state.trained.values():
        part.module.zero_grad(set_to_none=True)  # or what a step gives back at its start would count
    real = allocated(lambda: state.advance(batch, lambda: False))
    microbatches = recipe.engine.grad_accum_steps
    rehearsal = Rehearsal(recipe, stage, len(CLASSES))
    found = rehearsal.step(
        8 // microbatches,
        half=recipe.engine.precision == "bf16",
        activation_checkpointing=recipe.engine.activation_checkpointing,
        accumulating=microbatches > 1,
        fused_attention=False,
    )
    gradients = sum(p.grad.nbytes for part in state.trained.values() for p in part.parameters if p.grad is not None)
    assert found.held_bytes + gradients == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "generator"])
def test_bytes_of_weights(stage, tmp_path):
    recipe = recipe_with(stage, discriminator=True)
    state, _ = state_of(recipe, stage, tmp_path)
    weights = Rehearsal(recipe, stage, len(CLASSES)).weights
    trained = state.trained
    assert weights.trained == sum(parameter.nbytes for parameter in trained["model"].parameters)
    discriminator = trained.get("discriminator")
    assert weights.discriminator == (
        0 if discriminator is None else sum(parameter.nbytes for parameter in discriminator.parameters)
    )
    everything = sum(parameter.nbytes for parameter in state.model.parameters())
    assert weights.frozen == everything - weights.trained  # without feature networks
    assert 0.5 * weights.trained < weights.blocks < weights.trained


@pytest.mark.parametrize("stage", ["stage1", "stage2", "generator"])
def test_operations_of_a_real_step(stage, tmp_path):
    recipe = recipe_with(stage, discriminator=True, batch=2)
    state, batch = state_of(recipe, stage, tmp_path)
    state.model.train()
    with FlopCounterMode(display=False) as counter:
        for terms in state.task.losses(state.task.modules, batch, StepInfo(0, 0, 0)):
            terms.minimise.backward()
    found = Rehearsal(recipe, stage, len(CLASSES)).step(2, half=False, fused_attention=False)
    assert found.flops == counter.get_total_flops()


def test_a_step_twice_is_the_same():
    rehearsal = Rehearsal(RECIPES["digits"], "stage1", 10)
    first = rehearsal.step(4)
    assert rehearsal.step(8, activation_checkpointing=True).held_bytes > 0
    assert rehearsal.step(4) == first


def test_the_full_size_is_followed_without_its_memory():
    found = Rehearsal(RECIPES["alitok-256"], "generator", 1000).step(64)
    assert found.held_bytes > 20e9
    assert 24 * 50 < found.kernels < 24 * 500
