from dataclasses import replace

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.moments import Moments
from alitok.metrics.reference import MAX_FEATURES, Provenance, load_statistics, save_statistics

ABOUT = Provenance(kind="generation", network="inception-2015-12-05", resolution=256, dataset="abc")


@pytest.fixture
def moments():
    made = {}
    for name, dimensions in (("pool", 4), ("spatial", 7)):
        made[name] = Moments(dimensions)
        made[name].update(torch.randn(20, dimensions))
    return made


def test_statistics_round_trip_bit_for_bit_and_can_be_continued(tmp_path, moments):
    save_statistics(tmp_path / "reference.npz", moments, ABOUT)
    loaded = load_statistics(tmp_path / "reference.npz")
    found = loaded.moments
    assert loaded.provenance == ABOUT
    assert loaded.features is None
    assert [path.name for path in tmp_path.iterdir()] == ["reference.npz"]
    for name, wanted in moments.items():
        assert found[name].count == 20
        assert torch.equal(found[name].mean, wanted.mean)
        assert torch.equal(found[name].products, wanted.products)
    more = torch.randn(3, 4)
    found["pool"].update(more)
    moments["pool"].update(more)
    assert torch.equal(found["pool"].products, moments["pool"].products)


def test_layers_of_different_images_are_an_assertion_error(tmp_path, moments):
    moments["pool"].update(torch.randn(1, 4))
    with pytest.raises(AssertionError):
        save_statistics(tmp_path / "reference.npz", moments, ABOUT)


def test_expected_statistics_are_accepted():
    wanted = {"kind": "generation", "network": "inception-2015-12-05"}
    assert ABOUT.require("R", **wanted, resolution=256, dataset="abc") is None
    assert ABOUT.require("R", **wanted) is None
    assert replace(ABOUT, dataset="").require("R", **wanted, dataset="other") is None
    with pytest.raises(AlitokError):  # ... but a known dataset must match
        ABOUT.require("R", **wanted, dataset="other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "reconstruction"}, "R is a reference for generation .*gFID.*, not for reconstruction .*rFID"),
        ({"network": "classifier-1"}, "features of the network 'inception-2015-12-05', not 'classifier-1'"),
        ({"resolution": 128}, "256 px images, not 128 px"),
        ({"dataset": "def"}, "other data .hash abc, not def"),
    ],
)
def test_other_statistics_are_rejected_with_the_reason(change, words):
    wanted = {"kind": "generation", "network": "inception-2015-12-05", "resolution": 256, "dataset": "abc"} | change
    with pytest.raises(AlitokError, match=words):
        ABOUT.require("R", **wanted)


def test_files_that_are_not_statistics_are_rejected(tmp_path, moments):
    path = tmp_path / "reference.npz"
    with pytest.raises(AlitokError, match=r"reference\.npz does not exist"):
        load_statistics(path)
    path.write_text("no numbers")
    with pytest.raises(AlitokError, match=r"reference\.npz is damaged or not an npz file"):
        load_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(AlitokError, match=r"reference\.npz does not hold statistics of this version"):
        load_statistics(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(AlitokError, match=r"array\.npy is damaged or not an npz file"):
        load_statistics(tmp_path / "array.npy")
    np.savez(path, about=np.array([object()], dtype=object))
    with pytest.raises(AlitokError, match=r"reference\.npz is damaged"):
        load_statistics(path)
    save_statistics(path, moments, ABOUT)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(AlitokError, match=r"reference\.npz is damaged"):
        load_statistics(path)


def test_statistics_that_are_not_finite_are_rejected(tmp_path):
    path = tmp_path / "reference.npz"
    broken = Moments.of(5, torch.zeros(2), torch.full((2, 2), torch.nan))
    save_statistics(path, {"pool": broken}, ABOUT)
    with pytest.raises(AlitokError, match="does not hold statistics"):
        load_statistics(path)


def test_features_of_some_images_are_saved_too(tmp_path, moments):
    path, features = tmp_path / "reference.npz", torch.randn(12, 4)
    save_statistics(path, moments, ABOUT, features.double())
    found = load_statistics(path)
    assert found.features.dtype == torch.float32
    assert torch.equal(found.features, features)
    assert found.moments.keys() == {"pool", "spatial"}


@pytest.mark.parametrize(
    "features",
    [torch.randn(21, 4), torch.randn(12, 7), torch.randn(0, 4), torch.randn(12), torch.full((12, 4), torch.nan)],
)
def test_invalid_features_are_rejected_on_write_and_read(tmp_path, moments, features):
    path = tmp_path / "reference.npz"
    with pytest.raises(AssertionError):
        save_statistics(path, moments, ABOUT, features)
    save_statistics(path, moments, ABOUT)
    with np.load(path) as file:
        np.savez(path, **file, features=features.numpy())
    with pytest.raises(AlitokError, match="does not hold statistics"):
        load_statistics(path)


def test_the_number_of_saved_features_is_limited(tmp_path):
    made, features = Moments(1), torch.randn(MAX_FEATURES + 1, 1)
    made.update(features)
    save_statistics(tmp_path / "reference.npz", {"pool": made}, ABOUT, features[:MAX_FEATURES])
    with pytest.raises(AssertionError):
        save_statistics(tmp_path / "reference.npz", {"pool": made}, ABOUT, features)
