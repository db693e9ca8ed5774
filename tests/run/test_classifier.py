import dataclasses
import io
import os
import signal

import numpy as np
import pytest
import torch
from rich.console import Console

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.sources.opening import open_splits
from alitok.losses.local_features import LocalFeaturesConfig
from alitok.run import classifier as module
from alitok.run.classifier import judge_of, judge_training
from alitok.train.features import FeaturesTraining
from alitok.train.loop import Interrupted
from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig

ALONE = World(torch.device("cpu"))
TRAINING = FeaturesTraining(
    network=LocalFeaturesConfig(width=8, stages=2),
    phases=(Phase(steps=40, learning_rate=1e-2),),
    loop=LoopConfig(batch_size=32, checkpoint_every=10, keep=1),
    turns=1,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits():
    return open_splits("digits", 8)


def _judge(splits, *, console=None, world=ALONE, training=TRAINING, seed=0):
    return judge_of(splits, world, console or Console(file=io.StringIO()), seed=seed, training=training)


def _places(cache):
    return sorted(path.parent.name for path in cache.glob("judges/*/judge"))


def _same(first, second):
    return first.name == second.name and first.val_accuracy == second.val_accuracy


class _Mirrored:
    """The same images, which may be mirrored."""

    flip = True

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)


class _Spy:
    """A source that tells of every image that is read."""

    def __init__(self, source, on_read):
        self._source, self._on_read = source, on_read

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def read(self, index, rng):
        return self._on_read(index, rng, self._source)


def test_it_learns_the_classes_and_knows_how_well(digits, cache):
    console = Console(file=io.StringIO(), width=1000)
    judge = _judge(digits, console=console)
    images = np.stack([digits.val.read(row, None) for row in range(len(digits.val))])
    told = judge(torch.from_numpy(images)).probabilities.argmax(1).numpy()
    assert judge.val_accuracy == (told == digits.val.labels).mean()
    assert judge.val_accuracy > 0.6  # a guess is right in a tenth
    assert (judge.classes, judge.size) == (digits.train.classes, 8)
    said = console.file.getvalue()
    assert "Training the classifier that judges digits, once; it is kept in" in said
    assert f"It tells the class of {judge.val_accuracy:.1%} of the validation images" in said
    assert sorted(path.name for path in (cache / "judges" / _places(cache)[0]).iterdir()) == ["judge", "training"]
    assert not list(cache.rglob("checkpoints"))


def test_it_is_trained_once(digits, monkeypatch):
    first = _judge(digits)
    monkeypatch.setattr(module, "train", None)
    assert _same(_judge(digits), first)


def test_other_images_or_settings_have_another_judge(digits, cache):
    short, longer = (dataclasses.replace(TRAINING, phases=(Phase(steps=steps),)) for steps in (1, 2))
    _judge(digits, training=short)
    _judge(digits, training=longer)
    _judge(digits, training=short, seed=1)
    _judge(open_splits("digits", 9), training=short)
    _judge(open_splits("digits", 8, seed=1), training=short)  # others are held out
    _judge(dataclasses.replace(digits, contents="other"), training=short)
    _judge(dataclasses.replace(digits, train=_Mirrored(digits.train)), training=short)
    assert len(_places(cache)) == 7


def test_it_learns_nothing_of_val_images(digits, monkeypatch, tmp_path):
    judge = _judge(digits)
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "another"))
    random = np.random.default_rng(0)
    noise = _Spy(digits.val, lambda index, rng, source: random.integers(256, size=(3, 8, 8), dtype=np.uint8))
    other = _judge(dataclasses.replace(digits, val=noise))
    assert other.name == judge.name
    assert other.val_accuracy < 0.3 < judge.val_accuracy


def test_an_interrupted_training_goes_on(digits, monkeypatch, tmp_path, cache):
    whole = _judge(digits)
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "another"))
    read = []

    def stop_once(index, rng, source):
        read.append(index)
        if len(read) == 32 * 25:
            os.kill(os.getpid(), signal.SIGINT)
        return source.read(index, rng)

    stopped = dataclasses.replace(digits, train=_Spy(digits.train, stop_once))
    with pytest.raises(Interrupted, match="classifier stopped at step 25 of 40"):
        _judge(stopped)
    assert not _places(tmp_path / "another")
    assert _same(_judge(stopped), whole)
    assert len(read) == 32 * 40  # none twice


def test_large_images_are_learnt_as_they_are_judged(monkeypatch):
    splits = open_splits("digits", 128)
    shapes = []
    network = module.LocalFeatures

    class Watched(network):
        def forward(self, images):
            shapes.append(images.shape)
            return super().forward(images)

    monkeypatch.setattr(module, "LocalFeatures", Watched)
    training = dataclasses.replace(TRAINING, phases=(Phase(steps=2),), loop=LoopConfig(batch_size=4))
    judge = _judge(splits, training=training)
    assert judge.size == 128
    assert {shape[2:] for shape in shapes} == {(64, 64)}


def test_one_class_cannot_be_told_from_another(digits, cache):
    train = _Spy(digits.train, None)
    train.labels = np.zeros_like(digits.train.labels)
    with pytest.raises(AlitokError, match=r"at least two classes, and digits has one; .*--features inception"):
        _judge(dataclasses.replace(digits, train=train))
    assert not cache.exists()


def test_a_damaged_one_is_told(digits, cache):
    _judge(digits)
    (path,) = cache.glob("judges/*/judge/network/weights.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AlitokError, match=r"weights\.safetensors is truncated"):
        _judge(digits)


def test_a_cache_that_cannot_be_written_is_told(digits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "file"))
    with pytest.raises(AlitokError, match=r"cannot be written .* ALITOK_CACHE"):
        _judge(digits)


def test_several_processes_have_one_judge(digits, together, cache):
    def work(world):
        judge = _judge(digits, world=world)
        return judge.name, judge.val_accuracy

    first, second = together(work)
    assert first == second
    assert _places(cache)
    alone = _judge(digits)
    assert (alone.name, alone.val_accuracy) == first


def test_a_batch_is_shared_out_over_any_number_of_processes(digits, together):
    training = dataclasses.replace(TRAINING, phases=(Phase(steps=2),), loop=LoopConfig(batch_size=4))
    names = together(lambda world: _judge(digits, world=world, training=training).name, size=3)
    assert len(set(names)) == 1


@pytest.mark.parametrize(("size", "wanted"), [(16, 128), (32, 128), (64, 128), (256, 128)])
def test_the_features_are_few_for_any_size(digits, size, wanted):
    source = _Spy(digits.train, None)
    source.size = size
    network = judge_training(source).network
    assert network.width * 2 ** (network.stages - 1) == wanted


def test_more_images_are_learnt_for_longer(digits):
    steps = []
    for number in (10, 1000, 8000, 1_281_167, 10**9):
        source = _Spy(digits.train, None)
        source.__class__ = type("Sized", (_Spy,), {"__len__": lambda self, number=number: number})
        steps.append(judge_training(source).phases[0].steps)
    assert steps[0] == steps[1] < steps[2] < steps[3] < steps[4]
    assert steps[2] == 2 * steps[1]


@pytest.mark.slow
def test_the_digits_are_read_almost_without_fault():
    splits = open_splits("digits", 16)
    assert _judge(splits, training=judge_training(splits.train)).val_accuracy > 0.95
