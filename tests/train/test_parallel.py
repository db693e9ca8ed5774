"""Two processes on the halves of a batch do what one does on all of it; a killed pair continues to the same bits."""

import io

import pytest
import torch
from rich.console import Console

from alitok.core.distributed import World
from alitok.core.runlog import read_metrics
from alitok.generator import Generator, GeneratorConfig
from alitok.losses.discriminator import DiscriminatorConfig
from alitok.losses.objective import LossWeights
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig
from alitok.train.adversary import AdversaryConfig
from alitok.train.generator import GeneratorTask, GeneratorTraining
from alitok.train.loop import train
from alitok.train.optim import OptimizerConfig
from alitok.train.schedule import Phase
from alitok.train.task import EngineConfig, LoopConfig
from alitok.train.tokenizer import TokenizerPhase, TokenizerTask, TokenizerTraining

ALONE = World(torch.device("cpu"))
STEPS, BATCH = 6, 8
LOOP = LoopConfig(
    batch_size=BATCH,
    optimizer=OptimizerConfig(ema_decay=0.9, clip=0.5),
    log_every=1,
    evaluate_every=100,
    checkpoint_every=2,
)
TOKENIZER = TokenizerConfig(
    image_size=16,
    patch_size=4,
    codebook_size=16,
    code_width=4,
    encoder=EncoderConfig(width=16, layers=1, heads=2),
    stage1=DecoderConfig(width=16, layers=1, heads=2, causal=True, extra_tokens=1, prefix_head=True),
    stage2=DecoderConfig(width=16, layers=1, heads=2, extra_tokens=2, reads_prefix=False),
)
GENERATOR = GeneratorConfig(grid=4, prefix=4, codebook_size=16, classes=2, layers=2, width=16, heads=2, dropout=0.0)


class Plug(Exception):  # noqa: N818
    pass


def stream(world, make, stop_at):
    def batches(start):
        share = BATCH // world.size
        for number in range(start, 10_000):
            if number == stop_at:
                raise Plug
            values = make(torch.Generator().manual_seed(number))
            yield tuple(value[world.rank * share : (world.rank + 1) * share] for value in values)

    return batches


def pictures(generator):
    return torch.randint(256, (BATCH, 3, 16, 16), generator=generator, dtype=torch.uint8), torch.zeros(BATCH)


def codes(generator):
    return torch.randint(16, (BATCH, 20), generator=generator), torch.randint(2, (BATCH,), generator=generator)


def task_of(stage, world, stop_at=None):
    torch.manual_seed(3)
    if stage == "generator":
        training = GeneratorTraining(loop=LOOP, phases=(Phase(steps=STEPS, learning_rate=1e-2),), class_dropout=0.0)
        heldout = codes(torch.Generator().manual_seed(0))
        return GeneratorTask(Generator(GENERATOR), training, stream(world, codes, stop_at), heldout)
    phases = (
        TokenizerPhase(name="start", steps=2, learning_rate=1e-3),
        TokenizerPhase(
            name="gan",
            steps=STEPS - 2,
            learning_rate=1e-3,
            losses=LossWeights(adversarial=0.1, lecam=0.1),
            discriminator=True,
        ),
    )
    network = DiscriminatorConfig(width=32, stages=1, regions=4)
    adversary = AdversaryConfig(network=network, weight="adaptive" if stage == "stage1" else "fixed")
    training = TokenizerTraining(loop=LOOP, phases=phases, adversary=adversary)
    look = pictures(torch.Generator().manual_seed(0))[0].numpy()
    return TokenizerTask(Tokenizer(TOKENIZER), stage, training, stream(world, pictures, stop_at), look)


def run(stage, directory, world=ALONE, stop_at=None, **engine):
    task, console = task_of(stage, world, stop_at), Console(file=io.StringIO())
    engine = EngineConfig(**engine)
    trained = train(task, LOOP, directory, world=world, seed=0, console=console, engine=engine)
    return {name: value.numpy() for name, value in trained.weights.items()}


def same_bits(first, second):
    assert first.keys() == second.keys()
    return all((first[name] == second[name]).all() for name in first)


def same_course(one, other):
    """Losses, gradient norms and what the adversary measured, step by step.

    Not the weights: Adam makes whole steps of the rounding errors in gradients that are zero in truth, such as those of
    the keys' biases, which change no result.
    """
    courses = []
    for directory in (one, other):
        records = [record for record in read_metrics(directory / "metrics.jsonl") if "loss" in record]
        courses.append([{name: record[name] for name in record if name != "images_per_second"} for record in records])
    assert len(courses[0]) == STEPS
    assert courses[0] == [pytest.approx(record, rel=2e-3, abs=1e-5) for record in courses[1]]
    first = {name: value for name, value in courses[0][0].items() if name != "codebook_use"}
    return first == pytest.approx({name: courses[1][0][name] for name in first}, rel=1e-5)


STAGES = ["stage1", "stage2", "generator"]


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_as_one_does_on_the_joined_batch(tmp_path, together, stage):
    run(stage, tmp_path / "one")
    together(lambda world: run(stage, tmp_path / "two", world))
    assert same_course(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("stage", STAGES)
def test_a_pair_that_died_continues_to_the_same_bits(tmp_path, together, stage):
    def died(world):
        with pytest.raises(Plug):
            run(stage, tmp_path / "cut", world, stop_at=5)

    whole = together(lambda world: run(stage, tmp_path / "whole", world))
    together(died)
    again = together(lambda world: run(stage, tmp_path / "cut", world))
    assert same_bits(whole[0], again[0])


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_that_died_continues_to_the_same_bits(tmp_path, stage):
    whole = run(stage, tmp_path / "whole")
    for stop_at in (1, 3, 5):  # before the first checkpoint, where the discriminator begins, near the end
        with pytest.raises(Plug):
            run(stage, tmp_path / "cut", stop_at=stop_at)
    assert same_bits(whole, run(stage, tmp_path / "cut"))


@pytest.mark.parametrize("stage", ["stage1", "generator"])
@pytest.mark.parametrize("recompute", [False, True])
def test_sharded_blocks_train_as_whole_ones_do(tmp_path, together, stage, recompute):
    whole = run(stage, tmp_path / "one")
    ranks = together(lambda world: run(stage, tmp_path / "two", world, parallel="fsdp", recompute=recompute))
    assert same_course(tmp_path / "one", tmp_path / "two")
    assert ranks[1] == {}
    assert {name: value.shape for name, value in ranks[0].items()} == {name: v.shape for name, v in whole.items()}


@pytest.mark.parametrize("engine", [{"accumulate": 4}, {"recompute": True}])
@pytest.mark.parametrize("stage", STAGES)
def test_microbatches_and_recomputing_change_no_result(tmp_path, stage, engine):
    run(stage, tmp_path / "plain")
    run(stage, tmp_path / "other", **engine)
    assert same_course(tmp_path / "plain", tmp_path / "other")
