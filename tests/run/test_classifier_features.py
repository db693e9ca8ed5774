import json

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.losses.local_features import LocalFeatures, LocalFeaturesConfig
from alitok.run.classifier_features import Judge, seen

SMALL = LocalFeaturesConfig(width=8, stages=2)
CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def judge():
    return Judge(LocalFeatures(SMALL, 3), CLASSES, 16, 0.875)


@pytest.fixture
def images():
    return torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)


def test_features_are_the_last_stage_and_probabilities_the_classifiers(judge, images):
    pool, spatial, probabilities = judge(images)
    pixels = images.numpy().astype(np.float32) / 255
    stages = judge.network(torch.from_numpy(pixels))
    np.testing.assert_allclose(pool.numpy(), stages[-1].numpy().reshape(4, 16, -1).mean(2), rtol=1e-5, atol=1e-6)
    assert spatial is None
    powers = np.exp(judge.network.logits(torch.from_numpy(pixels)).numpy())
    np.testing.assert_allclose(probabilities.numpy(), powers / powers.sum(1, keepdims=True), rtol=1e-5)
    assert (pool.shape, probabilities.shape) == ((4, 16), (4, 3))
    assert {pool.dtype, probabilities.dtype} == {torch.float32}


def test_nothing_around_it_reaches_it(judge, images):
    wanted = judge(images)
    judge.train()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        found = judge(images)
    assert torch.equal(found.pool, wanted.pool)
    assert not found.pool.requires_grad
    assert not any(module.training for module in judge.modules())
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_large_images_are_averaged_down_to_64():
    judge, images = (
        Judge(LocalFeatures(SMALL, 3), CLASSES, 128),
        torch.randint(256, (2, 3, 128, 128), dtype=torch.uint8),
    )
    small = images.numpy().astype(float).reshape(2, 3, 64, 2, 64, 2).mean((3, 5))
    assert np.abs(seen(images).numpy() - small).max() <= 0.5
    at_64 = Judge(judge.network, CLASSES, 64)
    assert torch.equal(judge(images).pool, at_64(seen(images)).pool)


@pytest.mark.parametrize("side", [8, 64])
def test_small_images_are_seen_as_they_are(side):
    images = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    assert torch.equal(seen(images), images)


@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (32, 32)])
def test_images_of_another_size_are_refused(judge, shape):
    with pytest.raises(AlitokError, match=f"images of 16 pixels a side and cannot judge images of {shape[1]} x"):
        judge(torch.zeros(1, 3, *shape, dtype=torch.uint8))


def test_its_distance_is_no_fid(judge):
    assert "FID" not in judge.distance
    assert judge.distance == "Frechet distance in classifier features"


def test_its_name_tells_all_that_decides_what_it_says(judge):
    network = judge.network
    assert judge.name == f"classifier-{judge.weights}" == Judge(network, CLASSES, 16, 0.5).name
    others = [
        Judge(network, CLASSES[::-1], 16),
        Judge(network, CLASSES, 8),
        Judge(LocalFeatures(SMALL, 3), CLASSES, 16),
    ]
    assert len({judge.name, *(other.name for other in others)}) == 4


def test_it_comes_back_from_disk_as_it_was(judge, images, tmp_path):
    judge.save(tmp_path / "judge")
    loaded = Judge.load(tmp_path / "judge")
    assert torch.equal(loaded(images).probabilities, judge(images).probabilities)
    for name in ("name", "weights", "classes", "size", "val_accuracy"):
        assert getattr(loaded, name) == getattr(judge, name)
    assert [path.name for path in tmp_path.iterdir()] == ["judge"]


def test_one_that_was_never_measured_is_not_kept(judge, tmp_path):
    with pytest.raises(AlitokError, match="val_accuracy must be at least 0"):
        Judge(judge.network, CLASSES, 16).save(tmp_path / "judge")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "tokenizer"}, "not 'judge'"),
        ({"classes": ["cat", "dog"]}, "names 2 classes and its network has 3"),
        ({"size": 0}, "at least 1"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_damaged_or_other_one_is_told(judge, tmp_path, change, told):
    judge.save(tmp_path / "judge")
    path = tmp_path / "judge" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AlitokError, match=told):
        Judge.load(tmp_path / "judge")
