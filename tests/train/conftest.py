"""Small trainings of all three stages, the same on any number of processes, with faults to order."""

import io
import math
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from alitok.core.distributed import World
from alitok.core.runlog import read_metrics
from alitok.generator import Generator
from alitok.losses.adversarial import DiscriminatorConfig
from alitok.losses.objective import LossWeights
from alitok.tokenizer import Tokenizer
from alitok.train.adversary import AdversaryConfig
from alitok.train.generator import GeneratorTask, GeneratorTraining
from alitok.train.loop import train
from alitok.train.optim import OptimizerConfig
from alitok.train.schedule import Phase
from alitok.train.task import EngineConfig, LoopConfig
from alitok.train.tokenizer import TokenizerPhase, TokenizerTask, TokenizerTraining
from tiny import GENERATOR, TOKENIZER

ALONE = World(torch.device("cpu"))
STEPS, BATCH = 6, 8
LOOP = LoopConfig(
    batch_size=BATCH,
    optimizer=OptimizerConfig(ema_decay=0.9, clip=0.5),
    log_every=1,
    evaluate_every=100,
    checkpoint_every=2,
    max_skips=2,
)


class Plug(Exception):  # noqa: N818
    """Somebody pulled it."""


def stream(world, make, stop_at, drawn):
    """Endless batches; the number of each is added to `drawn`."""

    def batches(start):
        share = BATCH // world.size
        for number in range(start, 10_000):
            if number == stop_at:
                raise Plug
            drawn.append(number)
            values = make(torch.Generator().manual_seed(number))
            yield tuple(value[world.rank * share : (world.rank + 1) * share] for value in values)

    return batches


def images(generator):
    return torch.randint(256, (BATCH, 3, 16, 16), generator=generator, dtype=torch.uint8), torch.zeros(BATCH)


def codes(generator):
    return torch.randint(16, (BATCH, 20), generator=generator), torch.randint(2, (BATCH,), generator=generator)


def task_of(stage, world, stop_at=None, poisoned=()):
    """A task; the minimised terms of the `poisoned` batches are NaN."""
    torch.manual_seed(3)
    drawn = []
    if stage == "generator":
        training = GeneratorTraining(loop=LOOP, phases=(Phase(steps=STEPS, learning_rate=1e-2),), class_dropout=0.0)
        val = codes(torch.Generator().manual_seed(0))
        task = GeneratorTask(Generator(GENERATOR), training, stream(world, codes, stop_at, drawn), val)
    else:
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
        look = images(torch.Generator().manual_seed(0))[0].numpy()
        task = TokenizerTask(Tokenizer(TOKENIZER), stage, training, stream(world, images, stop_at, drawn), look)
    losses = task.losses

    def poison(*arguments):
        for terms in losses(*arguments):
            yield terms._replace(minimise=terms.minimise * math.nan) if drawn[-1] in poisoned else terms

    task.losses, task.batch_numbers = poison, drawn
    return task


def run(stage, directory, world=ALONE, stop_at=None, *, task=None, **engine):
    """Train; returns the weights to keep as arrays, on the first process."""
    task, console = task or task_of(stage, world, stop_at), Console(file=io.StringIO())
    trained = train(task, LOOP, directory, world=world, seed=0, console=console, engine=EngineConfig(**engine))
    return {name: value.numpy() for name, value in trained.weights.items()}


def same_bits(first, second):
    assert first.keys() == second.keys()
    return all((first[name] == second[name]).all() for name in first)


def course(directory):
    """Losses, gradient norms and what the adversary measured, step by step."""
    records = [record for record in read_metrics(directory / "metrics.jsonl") if "loss" in record]
    return [{name: record[name] for name in record if name != "images_per_second"} for record in records]


def same_course(one, other, rel=2e-3):
    """Whether two runs of all steps had the same course.

    Not the weights: Adam makes whole steps of the rounding errors in gradients that are zero in truth, such as those of
    the keys' biases, which change no result.
    """
    courses = [course(directory) for directory in (one, other)]
    assert len(courses[0]) == STEPS
    assert courses[0] == [pytest.approx(record, rel=rel, abs=1e-5) for record in courses[1]]
    first = {name: value for name, value in courses[0][0].items() if name != "codebook_use"}
    return first == pytest.approx({name: courses[1][0][name] for name in first}, rel=1e-5)


@pytest.fixture
def small():
    """The trainings above."""
    return SimpleNamespace(
        steps=STEPS,
        loop=LOOP,
        alone=ALONE,
        plug=Plug,
        tokenizer=TOKENIZER,
        task_of=task_of,
        run=run,
        same_bits=same_bits,
        course=course,
        same_course=same_course,
    )
