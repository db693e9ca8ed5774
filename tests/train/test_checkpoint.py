import pytest
import torch

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.train.checkpoint import Checkpoints

ALONE = World(torch.device("cpu"))


def test_the_last_ones_stay_and_the_newest_is_read_in_place(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    assert checkpoints.latest(["seconds"]) == (None, [])
    live = torch.zeros(3)
    for step in (5, 20, 100):
        live.fill_(step)
        checkpoints.save(step, {"model": {"x": live}}, {"seconds": 1.5})
    assert checkpoints.steps() == [20, 100]
    (tmp_path / "step-strange").mkdir()
    assert checkpoints.steps() == [20, 100]
    state, damaged = checkpoints.latest(["seconds"])
    assert (state["step"], state["seconds"], damaged) == (100, 1.5, [])
    live.zero_()
    checkpoints.load(100, {"model": {"x": live}})
    assert live.tolist() == [100.0] * 3


def test_a_state_without_what_is_wanted_is_another_version(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    checkpoints.save(1, {"model": {"x": torch.ones(2)}}, {"seconds": 1.5})
    with pytest.raises(AlitokError, match="it lacks hours"):
        checkpoints.latest(["hours"])


def test_tensors_it_does_not_hold_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    checkpoints.save(1, {"model": {"x": torch.ones(2)}}, {})
    for tensors in ({"y": torch.ones(2)}, {"x": torch.ones(3)}):
        with pytest.raises(AlitokError, match="step-00000001 does not match this training"):
            checkpoints.load(1, {"model": tensors})


def test_what_cannot_be_written_is_an_error_of_the_system_and_leaves_the_old_ones(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    checkpoints.save(1, {"model": {"x": torch.ones(2)}}, {})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.torch.save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, {"model": {"x": torch.ones(2)}}, {})
    assert checkpoints.latest([])[0]["step"] == 1


def test_a_checkpoint_of_two_ranks_is_read_by_one(tmp_path, together):
    def work(world):
        checkpoints = Checkpoints(tmp_path, 2, world)
        checkpoints.save(3, {"model": {"x": torch.arange(5.0)}}, {"who": "both"})
        read = torch.zeros(5)
        checkpoints.load(3, {"model": {"x": read}})
        return read.tolist()

    assert together(work) == [[0.0, 1.0, 2.0, 3.0, 4.0]] * 2
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    state, _ = checkpoints.latest(["who"])
    read = torch.zeros(5)
    checkpoints.load(3, {"model": {"x": read}})
    assert (state["who"], read.tolist()) == ("both", [0.0, 1.0, 2.0, 3.0, 4.0])
