import dataclasses
import io
import json
import os
import signal

import numpy as np
import pytest
import torch
from rich.console import Console

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.data.sources.opening import open_splits
from alitok.losses.perceptual import LocalFeatures, LocalFeaturesConfig
from alitok.run import classifier as module
from alitok.run.classifier import ClassifierFeatures, classifier_training, open_classifier, seen
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


def _open(splits, *, console=None, world=ALONE, training=TRAINING, seed=0):
    return open_classifier(splits, world, console or Console(file=io.StringIO()), seed=seed, training=training)


def _places(cache):
    return sorted(path.parent.name for path in cache.glob("classifiers/*/classifier"))


def _same(first, second):
    return first.name == second.name and first.val_accuracy == second.val_accuracy


class _Spy:
    """A source with other attributes, whose images `on_read` returns."""

    def __init__(self, source, on_read=None, **attributes):
        self._source, self._on_read = source, on_read
        vars(self).update(attributes)

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def read(self, index, rng):
        return self._on_read(index, rng, self._source)


def test_it_learns_the_classes_and_knows_how_well(digits, cache):
    console = Console(file=io.StringIO(), width=1000)
    extractor = _open(digits, console=console)
    images = np.stack([digits.val.read(row, None) for row in range(len(digits.val))])
    predicted = extractor(torch.from_numpy(images)).probabilities.argmax(1).numpy()
    assert extractor.val_accuracy == (predicted == digits.val.labels).mean()
    assert extractor.val_accuracy > 0.6  # chance is a tenth
    assert (extractor.classes, extractor.size) == (digits.train.classes, 8)
    printed = console.file.getvalue()
    assert "Training a classifier of digits as feature extractor, once; cached in" in printed
    assert f"Its accuracy on validation images is {extractor.val_accuracy:.1%}" in printed
    saved = sorted(path.name for path in (cache / "classifiers" / _places(cache)[0]).iterdir())
    assert saved == ["classifier", "training"]
    assert not list(cache.rglob("checkpoints"))


def test_it_is_trained_once(digits, monkeypatch):
    first = _open(digits)
    monkeypatch.setattr(module, "train", None)
    assert _same(_open(digits), first)


def test_other_images_or_settings_have_another_classifier(digits, cache):
    short, longer = (dataclasses.replace(TRAINING, phases=(Phase(steps=steps),)) for steps in (1, 2))
    _open(digits, training=short)
    _open(digits, training=longer)
    _open(digits, training=short, seed=1)
    _open(open_splits("digits", 9), training=short)
    _open(open_splits("digits", 8, seed=1), training=short)  # another validation set
    _open(dataclasses.replace(digits, contents="other"), training=short)
    mirrored = _Spy(digits.train, lambda index, rng, source: source.read(index, rng), flip=True)
    _open(dataclasses.replace(digits, train=mirrored), training=short)
    assert len(_places(cache)) == 7


def test_it_learns_nothing_of_val_images(digits, monkeypatch, tmp_path):
    extractor = _open(digits)
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "another"))
    random = np.random.default_rng(0)
    noise = _Spy(digits.val, lambda index, rng, source: random.integers(256, size=(3, 8, 8), dtype=np.uint8))
    other = _open(dataclasses.replace(digits, val=noise))
    assert other.name == extractor.name
    assert other.val_accuracy < 0.3 < extractor.val_accuracy


def test_an_interrupted_training_goes_on(digits, monkeypatch, tmp_path, cache):
    whole = _open(digits)
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "another"))
    read = []

    def stop_once(index, rng, source):
        read.append(index)
        if len(read) == 32 * 25:
            os.kill(os.getpid(), signal.SIGINT)
        return source.read(index, rng)

    stopped = dataclasses.replace(digits, train=_Spy(digits.train, stop_once))
    with pytest.raises(Interrupted, match="classifier stopped at step 25 of 40"):
        _open(stopped)
    assert not _places(tmp_path / "another")
    assert _same(_open(stopped), whole)
    assert len(read) == 32 * 40  # none twice


def test_large_images_are_downsampled_in_training_as_in_use(monkeypatch):
    splits = open_splits("digits", 128)
    shapes = []
    network = module.LocalFeatures

    class Watched(network):
        def forward(self, images):
            shapes.append(images.shape)
            return super().forward(images)

    monkeypatch.setattr(module, "LocalFeatures", Watched)
    training = dataclasses.replace(TRAINING, phases=(Phase(steps=2),), loop=LoopConfig(batch_size=4))
    extractor = _open(splits, training=training)
    assert extractor.size == 128
    assert {shape[2:] for shape in shapes} == {(64, 64)}


def test_a_classifier_of_one_class_is_rejected(digits, cache):
    train = _Spy(digits.train, labels=np.zeros_like(digits.train.labels))
    with pytest.raises(AlitokError, match=r"at least two classes, and digits has one; .*--features inception"):
        _open(dataclasses.replace(digits, train=train))
    assert not cache.exists()


def test_a_damaged_one_is_reported(digits, cache):
    _open(digits)
    (path,) = cache.glob("classifiers/*/classifier/network/weights.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AlitokError, match=r"weights\.safetensors is truncated"):
        _open(digits)


def test_a_cache_that_cannot_be_written_is_reported(digits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "file"))
    with pytest.raises(AlitokError, match=r"cannot be written .* ALITOK_CACHE"):
        _open(digits)


def test_all_ranks_have_one_classifier(digits, together, cache):
    def work(world):
        extractor = _open(digits, world=world)
        return extractor.name, extractor.val_accuracy

    first, second = together(work)
    assert first == second
    assert _places(cache)
    alone = _open(digits)
    assert (alone.name, alone.val_accuracy) == first


def test_a_batch_is_sharded_across_any_number_of_processes(digits, together):
    training = dataclasses.replace(TRAINING, phases=(Phase(steps=2),), loop=LoopConfig(batch_size=4))
    names = together(lambda world: _open(digits, world=world, training=training).name, size=3)
    assert len(set(names)) == 1


@pytest.mark.parametrize(("size", "wanted"), [(16, 128), (32, 128), (64, 128), (256, 128)])
def test_the_features_are_few_for_any_size(digits, size, wanted):
    network = classifier_training(_Spy(digits.train, size=size)).network
    assert network.width * 2 ** (network.stages - 1) == wanted


def test_more_images_train_longer(digits):
    steps = []
    for number in (10, 1000, 8000, 1_281_167, 10**9):
        source = _Spy(digits.train)
        source.__class__ = type("Sized", (_Spy,), {"__len__": lambda self, number=number: number})
        steps.append(classifier_training(source).phases[0].steps)
    assert steps[0] == steps[1] < steps[2] < steps[3] < steps[4]
    assert steps[2] == 2 * steps[1]


@pytest.mark.slow
def test_the_digits_are_read_almost_without_fault():
    splits = open_splits("digits", 16)
    assert _open(splits, training=classifier_training(splits.train)).val_accuracy > 0.95


SMALL = LocalFeaturesConfig(width=8, stages=2)
CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def extractor():
    return ClassifierFeatures(LocalFeatures(SMALL, 3), CLASSES, 16, 0.875)


@pytest.fixture
def images():
    return torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)


def test_features_are_the_last_stage_and_probabilities_the_classifiers(extractor, images):
    pool, spatial, probabilities = extractor(images)
    pixels = images.numpy().astype(np.float32) / 255
    stages = extractor.network(torch.from_numpy(pixels))
    np.testing.assert_allclose(pool.numpy(), stages[-1].numpy().reshape(4, 16, -1).mean(2), rtol=1e-5, atol=1e-6)
    assert spatial is None
    powers = np.exp(extractor.network.logits(torch.from_numpy(pixels)).numpy())
    np.testing.assert_allclose(probabilities.numpy(), powers / powers.sum(1, keepdims=True), rtol=1e-5)
    assert (pool.shape, probabilities.shape) == ((4, 16), (4, 3))
    assert {pool.dtype, probabilities.dtype} == {torch.float32}


def test_nothing_around_it_reaches_it(extractor, images):
    wanted = extractor(images)
    extractor.train()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        found = extractor(images)
    assert torch.equal(found.pool, wanted.pool)
    assert not found.pool.requires_grad
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_large_images_are_averaged_down_to_64():
    extractor = ClassifierFeatures(LocalFeatures(SMALL, 3), CLASSES, 128)
    images = torch.randint(256, (2, 3, 128, 128), dtype=torch.uint8)
    small = images.numpy().astype(float).reshape(2, 3, 64, 2, 64, 2).mean((3, 5))
    assert np.abs(seen(images).numpy() - small).max() <= 0.5
    at_64 = ClassifierFeatures(extractor.network, CLASSES, 64)
    assert torch.equal(extractor(images).pool, at_64(seen(images)).pool)


@pytest.mark.parametrize("side", [8, 64])
def test_small_images_are_not_downsampled(side):
    images = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    assert torch.equal(seen(images), images)


@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (32, 32)])
def test_images_of_another_size_are_rejected(extractor, shape):
    with pytest.raises(AlitokError, match=f"images of 16 px, not {shape[1]} x"):
        extractor(torch.zeros(1, 3, *shape, dtype=torch.uint8))


def test_its_distance_is_not_called_fid(extractor):
    assert "FID" not in extractor.distance
    assert extractor.distance == "Frechet distance in classifier features"


def test_its_name_tells_all_that_decides_what_it_says(extractor):
    network = extractor.network
    assert extractor.name == f"classifier-{extractor.weights}" == ClassifierFeatures(network, CLASSES, 16, 0.5).name
    others = [
        ClassifierFeatures(network, CLASSES[::-1], 16),
        ClassifierFeatures(network, CLASSES, 8),
        ClassifierFeatures(LocalFeatures(SMALL, 3), CLASSES, 16),
    ]
    assert len({extractor.name, *(other.name for other in others)}) == 4


def test_it_comes_back_from_disk_as_it_was(extractor, images, tmp_path):
    extractor.save(tmp_path / "extractor")
    loaded = ClassifierFeatures.load(tmp_path / "extractor")
    assert torch.equal(loaded(images).probabilities, extractor(images).probabilities)
    for name in ("name", "weights", "classes", "size", "val_accuracy"):
        assert getattr(loaded, name) == getattr(extractor, name)
    assert [path.name for path in tmp_path.iterdir()] == ["extractor"]


def test_one_that_was_cached_under_the_key_of_before_is_read(extractor, tmp_path):
    extractor.save(tmp_path / "extractor")
    path = tmp_path / "extractor" / "config.json"
    path.write_text(path.read_text().replace("val_accuracy", "heldout_accuracy"))
    assert _same(ClassifierFeatures.load(tmp_path / "extractor"), extractor)


def test_one_that_was_never_measured_is_not_kept(extractor, tmp_path):
    with pytest.raises(AlitokError, match="val_accuracy must be at least 0"):
        ClassifierFeatures(extractor.network, CLASSES, 16).save(tmp_path / "extractor")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tokenizer"}, "not 'classifier'"),
        ({"classes": ["cat", "dog"]}, "names 2 classes and its network has 3"),
        ({"size": 0}, "at least 1"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_damaged_or_other_file_is_rejected(extractor, tmp_path, change, message):
    extractor.save(tmp_path / "extractor")
    path = tmp_path / "extractor" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AlitokError, match=message):
        ClassifierFeatures.load(tmp_path / "extractor")
