import dataclasses
import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from alitok.core.distributed import World
from alitok.core.runlog import read_metrics
from alitok.data.codes import CodeStore
from alitok.data.loader import CodeBatches
from alitok.generator import Generator, GeneratorConfig
from alitok.train.generator import GeneratorTask, GeneratorTraining
from alitok.train.loop import train
from alitok.train.schedule import Phase
from alitok.train.task import EngineConfig, LoopConfig, StepInfo

CONFIG = GeneratorConfig(grid=2, prefix=2, codebook_size=8, classes=2, layers=1, width=16, heads=2, dropout=0.0)


def training(class_dropout=0.1):
    phase = Phase(steps=150, learning_rate=1e-2)
    return GeneratorTraining(
        loop=LoopConfig(batch_size=32, log_every=50, evaluate_every=150), phases=(phase,), class_dropout=class_dropout
    )


def codes_of(classes, generator):
    """Class 0 counts upwards from a random code, class 1 downwards."""
    first = torch.randint(8, (len(classes), 1), generator=generator)
    direction = 1 - 2 * classes[:, None]
    return (first + direction * torch.arange(6)) % 8


def batches(start_step):
    step = start_step
    while True:
        generator = torch.Generator().manual_seed(step)
        classes = torch.randint(2, (32,), generator=generator)
        yield codes_of(classes, generator), classes
        step += 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_a_rule_that_needs_class_and_order(tmp_path, precision):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(99)
    classes = torch.randint(2, (64,), generator=generator)
    val = codes_of(classes, generator), classes
    preview = np.zeros((3, 4, 4), np.uint8)
    model = Generator(CONFIG)
    task = GeneratorTask(model, training(), batches, val, lambda _: preview)
    console, world = Console(file=io.StringIO()), World(torch.device("cpu"))
    engine = EngineConfig(precision=precision)
    train(task, training().loop, tmp_path, world=world, seed=0, console=console, engine=engine)
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    # The first code is a guess among eight, the other five follow.
    assert abs(last["val_accuracy"] - (5 + 1 / 8) / 6) < 0.1
    assert abs(last["val_bits_per_image"] - math.log2(8)) < 0.6
    assert (tmp_path / "images" / "samples-000150.png").exists()
    curve = json.loads((tmp_path / "curves" / "loss_by_position-000150.json").read_text())["loss_by_position"]
    assert curve[0] > math.log(8) - 0.3
    assert max(curve[1:]) < 0.5
    assert sum(curve) / 6 == pytest.approx(last["val_loss"])


def test_the_loss_is_that_of_each_code_given_its_class_and_the_codes_before_it():
    model = Generator(CONFIG)
    torch.nn.init.normal_(model.output.weight)
    codes, classes = torch.randint(8, (3, 6)), torch.tensor([0, 1, 1])
    task = GeneratorTask(model, training(0.0), batches, (codes, classes))
    (terms,) = task.losses({"model": model}, (codes, classes), StepInfo(0, 0, 0))
    shares, right = [], 0
    for row in range(3):
        for place in range(6):
            logits = model(codes[row : row + 1, :place], classes[row : row + 1])[0, -1]
            shares.append(logits.softmax(-1)[codes[row, place]])
            right += int(logits.argmax() == codes[row, place])
    assert terms.minimise.item() == pytest.approx(-torch.stack(shares).log().mean().item(), rel=1e-5)
    assert terms.logged["accuracy"].item() == pytest.approx(right / 18)


def test_the_class_is_hidden_as_often_as_asked():
    model = Generator(CONFIG)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    codes, classes = torch.zeros(5000, 6, dtype=torch.int64), torch.ones(5000, dtype=torch.int64)
    for share in (0.0, 0.1, 1.0):
        task = GeneratorTask(model, training(share), batches, (codes, classes))
        list(task.losses({"model": model}, (codes, classes), StepInfo(0, 0, 0)))
        assert abs((seen[-1] == model.null_class).float().mean().item() - share) < 0.02
        assert set(seen[-1].tolist()) <= {1, model.null_class}


def test_one_of_ten_stored_crops_is_used_per_image_and_epoch(tmp_path, stored):
    """A code is ten times the image plus the crop, so that what the model was given tells where it came from."""
    images, crops, batch, epochs = 12, 10, 8, 4
    config = dataclasses.replace(CONFIG, codebook_size=images * crops)
    rows = np.arange(images * crops)
    labels = rows // crops % 2
    codes = np.repeat(rows[:, None], config.sequence_length, 1)
    shape = {"codebook_size": config.codebook_size, "classes": ("even", "odd"), "crops": crops}
    store = CodeStore(stored(tmp_path / "codes", codes, labels, **shape))
    phase = Phase(steps=images * epochs // batch, learning_rate=1e-3)
    settings = GeneratorTraining(loop=LoopConfig(batch_size=batch, log_every=1), phases=(phase,), class_dropout=0.0)
    model, seen = Generator(config), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append([part.clone() for part in inputs]))
    look = torch.from_numpy(store.codes([0]).astype(np.int64)), torch.from_numpy(store.labels[:1])
    task = GeneratorTask(model, settings, lambda start: iter(CodeBatches(store, batch, 5, start)), look)
    console, world = Console(file=io.StringIO()), World(torch.device("cpu"))
    train(task, settings.loop, tmp_path / "run", world=world, seed=0, console=console)
    del seen[-1]  # the look at the end
    drawn = torch.cat([codes[:, 0] for codes, _ in seen]).view(epochs, images)
    classes = torch.cat([classes for _, classes in seen]).view(epochs, images)
    assert torch.equal(classes, drawn // crops % 2)
    assert all(sorted((epoch // crops).tolist()) == list(range(images)) for epoch in drawn)
    assert len(drawn.unique()) > 2 * images  # other crops in other epochs
    orders = [[(row // crops).item() for row in epoch] for epoch in drawn]
    assert len({tuple(order) for order in orders}) == epochs
