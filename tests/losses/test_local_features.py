import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alitok.core.config import from_dict
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import LocalFeatures, LocalFeaturesConfig

SMALL = LocalFeaturesConfig(width=8, stages=3)


def distance_by_hand(first, second):
    stages = []
    for a, b in zip(first, second, strict=True):
        a, b = a.double().numpy(), b.double().numpy()
        positions = []
        for image, row, column in np.ndindex(a.shape[0], *a.shape[2:]):
            u, v = a[image, :, row, column], b[image, :, row, column]
            positions.append(np.sum((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2))
        stages.append(np.mean(positions))
    return np.mean(stages)


@pytest.mark.parametrize("side", [8, 9, 20])
def test_each_stage_after_the_first_halves_and_doubles(side):
    network = LocalFeatures(SMALL, outputs=5)
    images = torch.rand(2, 3, side, side)
    half, quarter = -(-side // 2), -(-side // 4)
    assert [tuple(feature.shape) for feature in network(images)] == [
        (2, 8, side, side),
        (2, 16, half, half),
        (2, 32, quarter, quarter),
    ]
    assert network.logits(images).shape == (2, 5)


def test_mid_gray_maps_to_zero():
    network = LocalFeatures(SMALL, 2)
    (first, *_), zeros = network(torch.full((1, 3, 8, 8), 0.5)), torch.zeros(1, 3, 8, 8)
    assert torch.equal(first, network.stages[0](zeros))
    assert not torch.equal(first, network(zeros)[0])


def test_many_stages_accept_the_smallest_images():
    assert LocalFeatures(LocalFeaturesConfig(width=8, stages=6), 2)(torch.rand(1, 3, 8, 8))[-1].shape == (1, 256, 1, 1)


def test_distance_equals_the_formula_by_hand():
    network = LocalFeatures(SMALL, 2).freeze()
    first, second = network(torch.rand(2, 3, 8, 8)), network(torch.rand(2, 3, 8, 8))
    assert network.distance(first, second).item() == pytest.approx(distance_by_hand(first, second), rel=1e-5)


@pytest.mark.parametrize("level", [0.0, 1.0, None])
def test_distance_is_zero_for_equal_images_and_positive_otherwise(level):
    network = LocalFeatures(SMALL, 2).freeze()
    images = torch.rand(2, 3, 16, 16) if level is None else torch.full((2, 3, 16, 16), level)
    other = images.clone()
    other[0, :, 3, 4] = 1 - other[0, :, 3, 4]
    assert network.distance(network(images), network(images)) == 0
    assert network.distance(network(images), network(other)) > 0


def test_it_trains_as_a_classifier_and_freezes():
    network = LocalFeatures(SMALL, 2)
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16) % 2
    images[labels == 1, 0] *= 0.5  # class 1 has half the red
    parameters = list(network.parameters())
    for _ in range(60):
        gradients = torch.autograd.grad(F.cross_entropy(network.logits(images), labels), parameters)
        with torch.no_grad():
            torch._foreach_sub_(parameters, gradients, alpha=0.3)
    assert (network.logits(images).argmax(1) == labels).all()
    network.freeze().train()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_gradients_reach_the_image_but_no_parameter():
    network = LocalFeatures(SMALL, 2).freeze()
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    network.distance(network(images), network(torch.rand(2, 3, 8, 8))).backward()
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_bf16_features_give_a_float32_distance():
    network = LocalFeatures(SMALL, 2).freeze()
    images, others = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    exact = network.distance(network(images), network(others)).item()
    with torch.autocast("cpu", torch.bfloat16):
        features, target = network(images), network(others)
        distance = network.distance(features, target)
    assert features[0].dtype == torch.bfloat16
    assert distance.dtype == torch.float32
    assert distance.item() == pytest.approx(exact, rel=0.05)


def test_a_saved_network_loads_frozen_with_the_same_features(tmp_path):
    network = LocalFeatures(SMALL, 3)
    network.save(tmp_path / "features")
    loaded = LocalFeatures.load(tmp_path / "features")
    images = torch.rand(2, 3, 8, 8)
    assert (loaded.config, loaded.outputs, loaded.training) == (SMALL, 3, False)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.logits(images), network.logits(images))


def test_saving_keeps_other_files_in_the_directory(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    LocalFeatures(SMALL, 3).save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tokenizer"}, "not 'local features'"),
        ({"outputs": 0}, "at least 1"),
        ({"outputs": "many"}, "outputs"),
        ({"outputs": 4}, "head.bias is"),
        ({"config": {"width": 16}}, "does not fit"),
        ({"surplus": 1}, "unknown key 'surplus'"),
    ],
)
def test_a_damaged_or_foreign_config_is_rejected(tmp_path, change, message):
    LocalFeatures(SMALL, 3).save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AlitokError, match=message):
        LocalFeatures.load(tmp_path)


@pytest.mark.parametrize(("sizes", "message"), [({"width": 12}, "multiple of 8"), ({"stages": 0}, "at least 1")])
def test_invalid_sizes_are_rejected(sizes, message):
    with pytest.raises(AlitokError, match=message):
        from_dict(LocalFeaturesConfig, sizes, "run.toml")
