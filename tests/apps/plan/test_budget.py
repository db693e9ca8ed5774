"""A plan against what is written and held by real trainings, and against sums done by hand."""

import dataclasses
import json
import re

import pytest
import torch

from alitok.apps.plan import command as plan_command
from alitok.apps.plan.budget import SCALES, PlanRequest, make_budget
from alitok.apps.plan.hardware import GPUS
from alitok.apps.plan.stage_cost import LAYOUTS, ActivationLine, Layout, StageCost, static_bytes
from alitok.apps.plan.step_trace import Rehearsal
from alitok.apps.plan.traffic import Assumptions
from alitok.cli import app
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.opening import open_splits
from alitok.recipes.flops import decoder_flops, encoder_flops, generator_step_flops, sampling_flops, step_weight_bytes
from alitok.recipes.presets import RECIPES, GeneratorSize
from alitok.run.estimate import generator_on_noise, noise_splits
from alitok.run.tasks import Trainings
from alitok.train import parallel
from alitok.train.optim import make_optimizer
from alitok.train.state import TrainingState

CLASSES = tuple("0123456789")
SMALL = dataclasses.replace(RECIPES["digits"], generator_size=GeneratorSize(layers=4, width=64, heads=4))


@pytest.fixture(scope="module")
def budget():
    request = PlanRequest(gpus=4, images=1437, classes=10, image_bytes=1000)
    return make_budget(SMALL, GPUS["a800"], request, Assumptions(mfu=0.5))


def test_hours_by_hand(budget):
    generator = budget.stages[2]
    (phase,) = generator.phases
    flops = generator_step_flops(SMALL.generator_size.config(SMALL.tokenizer, 10))
    assert phase.flops == flops
    assert phase.time.arithmetic == pytest.approx(64 / 4 * flops / (0.5 * 312e12))
    assert phase.hours == pytest.approx(1200 * phase.time.seconds / 3600)
    assert budget.hours == pytest.approx(
        sum(stage.hours for stage in budget.stages) + sum(job.hours for job in budget.jobs)
    )


def test_data_by_hand(budget):
    stage1, _, generator = budget.stages
    assert stage1.read_bytes == 1200 * 64 * 1000
    assert generator.read_bytes == 1200 * 64 * 2 * 20  # 16 codes and 4 of the prefix
    assert generator.cores == 0 < stage1.cores
    encode = budget.jobs[0]
    assert encode.written_bytes == 1437 * 2 * 20


def test_codes_and_samples_are_planned_in_float32_by_hand(budget):
    encode, sample = budget.jobs
    assert encode.precision == sample.precision == "fp32"
    assert encode.hours == pytest.approx(1437 * encoder_flops(SMALL.tokenizer) / (4 * 0.5 * 19.5e12) / 3600)
    generator = SMALL.generator_size.config(SMALL.tokenizer, 10)
    weights = step_weight_bytes(generator, "fp32", 2 * 256)
    cache = 2 * 2 * 4 * 64 * 20 * 4  # two rows, keys and values, layers, width, codes, bytes
    assert sample.memory == weights + 256 * cache
    assert sample.flops == 2 * sampling_flops(generator) + decoder_flops(SMALL.tokenizer, SMALL.tokenizer.stage2)
    reading = 20 * (weights + 256 * cache / 2) / (2.039e12 * Assumptions().bandwidth_fraction)
    computing = 256 * 2 * sampling_flops(generator) / (0.5 * 19.5e12)
    pixels = 256 * decoder_flops(SMALL.tokenizer, SMALL.tokenizer.stage2) / (0.5 * 19.5e12)
    assert sample.hours == pytest.approx(49 * (max(reading, computing) + pixels) / 3600)


def test_where_memory_is_slow_samples_take_the_time_of_reading():
    gpu = dataclasses.replace(GPUS["a800"], bandwidth=1e9)
    request = PlanRequest(gpus=4, images=1437, classes=10)
    _, sample = make_budget(SMALL, gpu, request, Assumptions(mfu=0.5), stages=()).jobs
    weights = step_weight_bytes(SMALL.generator_size.config(SMALL.tokenizer, 10), "fp32", 2 * 256)
    reading = 20 * (weights + 256 * 81_920 / 2) / (1e9 * Assumptions().bandwidth_fraction)  # half the cache, on average
    pixels = 256 * decoder_flops(SMALL.tokenizer, SMALL.tokenizer.stage2) / (0.5 * 19.5e12)
    assert sample.hours == pytest.approx(49 * (reading + pixels) / 3600)


def test_smaller_batches_are_sampled_where_memory_is_small():
    gpu = dataclasses.replace(GPUS["4090"], memory=20e6)
    request = PlanRequest(images=1437, classes=10)
    (_, wide), (_, tight) = (
        make_budget(SMALL, each, request, Assumptions(), stages=()).jobs for each in (GPUS["4090"], gpu)
    )
    assert 0.8 * 20e6 < tight.memory <= 0.9 * 20e6 < wide.memory


def test_every_scale_has_a_time_or_a_reason(budget):
    for stage in budget.stages:
        assert tuple(scale.gpus for scale in stage.scaling) == SCALES
        for scale in stage.scaling:
            assert (scale.time is None) == (scale.gpus > 64)  # a batch of 64
            if scale.time is None:
                assert scale.why_not == "a batch of 64 does not divide"
        # So small a model is bound by its launches on any GPU.
        assert stage.scaling[6].time.bound in ("kernel launches", "communication")


def test_layouts_shrink_what_they_should(budget):
    for stage in budget.stages:
        plain, recomputed, sharded, both = stage.footprints
        assert [found.layout for found in stage.footprints] == list(LAYOUTS)
        assert recomputed.activations < plain.activations
        assert recomputed.gradients == plain.gradients
        assert sharded.optimizer < plain.optimizer
        assert both.total < plain.total
        assert stage.choice.layout.name in [found.layout.name for found in stage.footprints]


def test_a_small_memory_takes_microbatches_then_nothing():
    cost = StageCost(SMALL, "generator", 10, half=True)
    gpu, assumed = GPUS["a800"], Assumptions()
    whole = cost.footprints(64, 1, 1e12)[0]
    fixed = whole.total - whole.activations
    roomy = cost.choose(1, gpu, 2.0 * whole.total, 1e14, assumed)
    assert (roomy.microbatches, roomy.images) == (1, 64)
    assert roomy.options == "engine.parallel=ddp engine.grad_accum_steps=1 engine.activation_checkpointing=false"
    recomputed = cost.footprints(64, 1, 1e12)[1].activations
    tight = cost.choose(1, gpu, fixed + 0.6 * recomputed, 1e14, assumed)
    assert tight.microbatches > 1
    assert tight.microbatches * tight.images == 64
    assert cost.choose(1, gpu, 0.5 * fixed, 1e14, assumed) is None


def test_activations_are_nearly_a_line():
    rehearsal = Rehearsal(SMALL, "stage1", 10)
    low, high, beyond = (rehearsal.step(count).held_bytes for count in (8, 16, 64))
    assert ActivationLine.through((8, low), (16, high)).at(64) == pytest.approx(beyond, rel=0.05)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "generator"])
def test_checkpoints_are_as_large_as_planned(stage, tmp_path):
    world = World(torch.device("cpu"))
    trainings = Trainings(SMALL, noise_splits(CLASSES, SMALL), world, tmp_path, 0)
    training = generator_on_noise(trainings) if stage == "generator" else trainings.stage(stage, rehearsal=True)
    state = TrainingState(training.task, training.loop, SMALL.engine, tmp_path, world)
    state.save()
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.distcp"))
    tensors = sum(value.nbytes for group in state._tensors().values() for value in group.values())
    planned = StageCost(SMALL, stage, 10, half=False).checkpoint_bytes()
    assert planned == pytest.approx(tensors, rel=0.01)
    assert tensors < written < 1.3 * tensors  # each tensor has a head of its own, which counts for small ones


def sharded_bytes(world):
    """What a process really holds of weights and moments under FSDP2."""
    from alitok.generator import Generator

    torch.manual_seed(0)
    model = Generator(SMALL.generator_size.config(SMALL.tokenizer, 10))
    parallel.shard(model, world)
    local = [getattr(parameter, "to_local", lambda value=parameter: value)() for parameter in model.parameters()]
    optimizer = make_optimizer(model, SMALL.generator.loop.optimizer)
    moments = [value for slots in optimizer.state.values() for key, value in slots.items() if key != "step"]
    mine = [getattr(value, "to_local", lambda value=value: value)() for value in moments]
    return sum(value.nbytes for value in local), sum(value.nbytes for value in mine)


@pytest.mark.slow
def test_shards_of_two_processes(together):
    weights = Rehearsal(SMALL, "generator", 10).weights
    planned, _, moments = static_bytes(weights, Layout("fsdp", False), 2, ema=False)
    for held, held_moments in together(sharded_bytes):
        assert planned == pytest.approx(held, rel=0.02)
        assert moments == pytest.approx(held_moments, rel=0.02)


def plan(*tokens, preset="digits"):
    app(["plan", "--preset", preset, *tokens], exit_on_error=False, result_action="return_value")


def test_the_command_prints_tables_and_json(capsys):
    plan("--gpus", "2", "--gpu", "l40s", "--stage", "generator")
    text = capsys.readouterr().out
    assert "2 x L40S 48 GB PCIe" in text
    assert "Assumed, not measured: 40%" in text
    assert "FSDP + act. ckpt" in text
    assert "encode and sample in fp32, 91.6 TFLOP/s at most" in text
    plan("--gpus", "2", "--stage", "generator", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["request"]["images"] == 1438
    assert found["stages"][0]["gpu_hours"] == pytest.approx(2 * found["stages"][0]["hours"])
    assert found["stages"][0]["scaling"][0]["time"]["bound"] in ("arithmetic", "kernel launches")


def test_tables_are_whole_in_a_narrow_terminal(capsys, monkeypatch):
    """Every number of the wide tables is in the narrow ones, and these fit."""
    plan("--stage", "generator", preset="alitok-256")
    wide = capsys.readouterr().out
    monkeypatch.setattr(plan_command, "_WIDTH", 80)
    plan("--stage", "generator", preset="alitok-256")
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    assert re.findall(r"\d[\d,.]*", narrow) == re.findall(r"\d[\d,.]*", wide)


def test_gpu_numbers_that_do_not_divide_a_batch_are_listed_below_the_table(capsys):
    plan("--stage", "generator")
    assert "On 128, 256, 512 and 1,024 GPUs: a batch of 64 does not divide." in capsys.readouterr().out


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_set_is_planned_as_it_is(name, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(plan_command, "make_budget", lambda recipe, gpu, request, *rest: asked.append(request))
    monkeypatch.setattr(plan_command, "to_json", lambda budget: {})
    for tokens in ((), ("--image-kb", "2"), ("--images", "50")):
        plan("--json", *tokens, preset=name)
    size = BUILTIN[name].size
    train = open_splits(name, size, 0).train
    held, own, other = asked
    assert (held.images, held.classes) == (len(train), len(train.classes))
    assert (held.image_bytes, held.in_memory) == (train.read(0, None).nbytes, True)
    assert (own.images, own.image_bytes, own.in_memory) == (len(train), 2000, False)
    assert (other.images, other.image_bytes, other.in_memory) == (50, 110_000, False)


def test_images_in_memory_need_no_cores():
    request = PlanRequest(gpus=4, images=1438, classes=10, image_bytes=768, in_memory=True)
    budget = make_budget(SMALL, GPUS["a800"], request, Assumptions(), ("stage1",))
    assert budget.stages[0].cores == 0


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("--gpus", "3"), "batch of 64 images of stage1 does not divide over 3 GPUs"),
        (("--gpus", "0"), "gpus must be at least 1"),
        (("--gpu", "tpu"), "Unknown GPU 'tpu'"),
        (("--gpus", "1", "--generator", "B", "--set", "tokenizer.patch=3"), "patch"),
        (("--mfu", "1.5"), "mfu must be above 0 and at most 1"),
        (("--network", "-1"), "--network must be above 0"),
        (("--set", "stage1.loop.batch=3"), "batch"),
    ],
)
def test_bad_options_are_rejected(tokens, message):
    with pytest.raises(AlitokError, match=message):
        plan(*tokens)


def test_units():
    assert [plan_command.size(value) for value in (12, 1500, 2.5e9)] == ["12 B", "1.5 kB", "2.5 GB"]
    assert [plan_command._hours(hours) for hours in (0.5, 1500.0)] == ["30.0 min", "1,500.0 h"]


def test_an_unknown_preset_is_rejected():
    with pytest.raises(AlitokError, match="Unknown preset 'mine'; choose one of: small, base, digits"):
        plan(preset="mine")
