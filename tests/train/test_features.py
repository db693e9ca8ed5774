import io
from itertools import count

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from alitok.core.config import from_dict
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import LocalFeatures, LocalFeaturesConfig
from alitok.train.features import FeaturesTask, FeaturesTraining, finished_features, outputs
from alitok.train.loop import train
from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig, StepInfo

SMALL = LocalFeaturesConfig(width=8, stages=2)


def _images(number):
    return torch.randint(256, (number, 3, 8, 8), dtype=torch.uint8)


def _task(network, training, batches=None, val=None):
    val = val or (np.zeros((1, 3, 8, 8), np.uint8), np.zeros(1, np.int64))
    return FeaturesTask(network, training, batches, val)


class _Told(nn.Module):
    """Remembers what it is asked, and answers with what it is reported to."""

    def __init__(self, answers):
        super().__init__()
        self.asked, self.answers = [], iter(answers)
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        self.asked.append(images)
        return next(self.answers)


@pytest.mark.parametrize("turns", [1, 4])
def test_the_loss_is_that_of_each_image_in_its_turn(turns):
    images, labels = _images(16), torch.randint(3, (16,))
    answers = torch.randn(16, 3 * turns)
    task, reported = _task(LocalFeatures(SMALL, outputs(3, turns)), FeaturesTraining(turns=turns)), _Told([answers])
    torch.manual_seed(5)
    (terms,) = task.losses({"model": reported}, (images, labels), StepInfo(0, 0, 0))
    torch.manual_seed(5)
    drawn = torch.randint(turns, (16,)).numpy()
    assert turns == 1 or len(set(drawn)) > 1
    for image, turn, seen in zip(images.numpy(), drawn, reported.asked[0].numpy(), strict=True):
        np.testing.assert_array_equal(np.rot90(image, turn, (1, 2)) / np.float32(255), seen)
    wanted = labels.numpy() * turns + drawn
    logs = np.log(np.exp(answers.numpy()).sum(1)) - answers.numpy()[np.arange(16), wanted]
    assert terms.minimise.item() == pytest.approx(logs.mean(), rel=1e-5)
    assert terms.logged["accuracy"].item() == pytest.approx((answers.argmax(1).numpy() == wanted).mean())


@pytest.mark.parametrize("turns", [1, 4])
def test_all_turns_are_asked_of_val_images(turns):
    images, labels = _images(8), torch.arange(8) % 2
    right = F.one_hot(labels * turns + torch.arange(8) % turns, outputs(2, turns)).float()
    right[5] = right[5].roll(1)
    task = _task(
        LocalFeatures(SMALL, outputs(2, turns)), FeaturesTraining(turns=turns), None, (images.numpy(), labels.numpy())
    )
    task.modules = {"model": _Told([right])}
    assert task.evaluate(0).scalars == {"val_accuracy": 7 / 8}


def _six_and_nine(start):
    """Class 1 is class 0 turned by half."""
    for number in count(start):
        random = np.random.default_rng(number)
        images, labels = random.integers(100, size=(16, 3, 8, 8), dtype=np.uint8), np.arange(16) % 2
        images[:, :, 1:3, 1:3] = 255
        images[labels == 1] = np.rot90(images[labels == 1], 2, (2, 3))
        yield torch.from_numpy(images), torch.from_numpy(labels)


@pytest.mark.parametrize(("turns", "reported"), [(1, True), (4, False)])
def test_only_without_turns_a_six_differs_from_a_nine(turns, reported, tmp_path):
    training = FeaturesTraining(
        network=SMALL,
        phases=(Phase(steps=60, learning_rate=1e-2),),
        loop=LoopConfig(batch_size=16),
        turns=turns,
    )
    torch.manual_seed(0)
    network = LocalFeatures(SMALL, outputs(2, turns))
    images, labels = next(_six_and_nine(1000))
    task = _task(network, training, _six_and_nine, (images.numpy(), labels.numpy()))
    world, console = World(torch.device("cpu")), Console(file=io.StringIO())
    trained = train(task, training.loop, tmp_path, world=world, seed=0, console=console)
    finished = finished_features(trained.weights, network)
    assert not any(parameter.requires_grad for parameter in finished.parameters())
    logits = finished.logits(images.float() / 255).view(16, 2, turns)
    right = (logits.logsumexp(2).argmax(1) == labels).float().mean().item()
    assert (right == 1) is reported


def test_a_training_without_phases_is_rejected():
    with pytest.raises(AlitokError, match="phases is empty; give at least one"):
        from_dict(FeaturesTraining, {"phases": []}, "run.toml")


def test_turns_that_leave_some_out_are_rejected():
    for turns in (0, 2, 3, 5):
        with pytest.raises(AlitokError, match=f"turns must be 1 .* or 4 .*, not {turns}"):
            from_dict(FeaturesTraining, {"turns": turns}, "run.toml")
    assert from_dict(FeaturesTraining, {}, "run.toml").turns == 4
