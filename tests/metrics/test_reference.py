from dataclasses import replace

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.moments import Moments
from alitok.metrics.reference import Provenance, load_moments, save_moments

ABOUT = Provenance(kind="generation", network="inception-2015-12-05", resolution=256, dataset="abc")


@pytest.fixture
def moments():
    made = {}
    for name, dimensions in (("pool", 4), ("spatial", 7)):
        made[name] = Moments(dimensions)
        made[name].update(torch.randn(20, dimensions))
    return made


def test_statistics_come_back_to_the_last_bit_and_can_be_continued(tmp_path, moments):
    save_moments(tmp_path / "reference.npz", moments, ABOUT)
    found, about = load_moments(tmp_path / "reference.npz")
    assert about == ABOUT
    assert [path.name for path in tmp_path.iterdir()] == ["reference.npz"]
    for name, wanted in moments.items():
        assert found[name].count == 20
        assert torch.equal(found[name].mean, wanted.mean)
        assert torch.equal(found[name].products, wanted.products)
    more = torch.randn(3, 4)
    found["pool"].update(more)
    moments["pool"].update(more)
    assert torch.equal(found["pool"].products, moments["pool"].products)


def test_layers_of_different_pictures_are_a_mistake_of_the_program(tmp_path, moments):
    moments["pool"].update(torch.randn(1, 4))
    with pytest.raises(AssertionError):
        save_moments(tmp_path / "reference.npz", moments, ABOUT)


def test_what_was_wanted_is_accepted():
    ABOUT.require("R", kind="generation", network="inception-2015-12-05", resolution=256, dataset="abc")
    ABOUT.require("R", kind="generation", network="inception-2015-12-05")
    replace(ABOUT, dataset="").require("R", kind="generation", network="inception-2015-12-05", dataset="other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"kind": "reconstruction"},
            "R is a reference for generation .*gFID.* this is about reconstruction .*rFID",
        ),
        ({"network": "classifier-1"}, "features of the network 'inception-2015-12-05', not 'classifier-1'"),
        ({"resolution": 128}, "256 pixels a side, not 128"),
        ({"dataset": "def"}, "other data .hash abc, not def"),
    ],
)
def test_another_reference_is_refused_with_its_reason(change, words):
    wanted = {"kind": "generation", "network": "inception-2015-12-05", "resolution": 256, "dataset": "abc"} | change
    with pytest.raises(AlitokError, match=words):
        ABOUT.require("R", **wanted)


def test_files_that_are_something_else_are_named(tmp_path, moments):
    path = tmp_path / "reference.npz"
    with pytest.raises(AlitokError, match=r"reference\.npz does not exist"):
        load_moments(path)
    path.write_text("no numbers")
    with pytest.raises(AlitokError, match=r"reference\.npz is damaged or no npz file"):
        load_moments(path)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(AlitokError, match=r"reference\.npz holds no statistics that alitok wrote"):
        load_moments(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(AlitokError, match=r"array\.npy is damaged or no npz file"):
        load_moments(tmp_path / "array.npy")
    np.savez(path, about=np.array([object()], dtype=object))
    with pytest.raises(AlitokError, match=r"reference\.npz is damaged"):
        load_moments(path)
    save_moments(path, moments, ABOUT)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(AlitokError, match=r"reference\.npz is damaged"):
        load_moments(path)


def test_numbers_that_cannot_be_statistics_are_refused(tmp_path):
    path = tmp_path / "reference.npz"
    broken = Moments.of(5, torch.zeros(2), torch.full((2, 2), torch.nan))
    save_moments(path, {"pool": broken}, ABOUT)
    with pytest.raises(AlitokError, match="holds no statistics"):
        load_moments(path)
