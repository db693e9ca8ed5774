import pytest
import torch

from alitok.core.distributed import join
from alitok.core.errors import AlitokError, OtherRankError


def test_one_process_needs_no_launcher_and_changes_nothing():
    with join("cpu") as world:
        assert (world.rank, world.size, world.main) == (0, 1, True)
        values = torch.tensor([1.0, 2.0])
        for operation in (world.sum, world.mean, world.minimum, world.maximum):
            assert operation(values) is values
        assert values.tolist() == [1.0, 2.0]
        assert world.gather("x") == ["x"]
        assert world.on_rank0(lambda: 3) == 3
        assert world.same([values])


def test_reductions_are_over_all_processes(together):
    def work(world):
        mine = torch.tensor([1.0 + world.rank, -2.0 * world.rank])
        operations = (world.sum, world.mean, world.minimum, world.maximum)
        return [operation(mine.clone()).tolist() for operation in operations], world.gather(world.rank * 10)

    for reduced, gathered in together(work, 3):
        assert reduced == [[6.0, -6.0], [2.0, -2.0], [1.0, -4.0], [3.0, 0.0]]
        assert gathered == [0, 10, 20]


def test_work_together_is_done_once_and_told_to_all(together, tmp_path):
    def work(world):
        def write():
            with (tmp_path / "log").open("a") as file:
                file.write("x")
            return {"answer": 42}

        return world.on_rank0(write)

    assert together(work) == [{"answer": 42}] * 2
    assert (tmp_path / "log").read_text() == "x"


def test_an_error_of_rank_0_ends_all_ranks_and_is_reported_once(together):
    def work(world):
        def fail():
            raise AlitokError("the disk is on fire")

        try:
            world.on_rank0(fail)
        except OtherRankError:
            return "silent"
        except AlitokError as error:
            return str(error)

    assert together(work) == ["the disk is on fire", "silent"]


def test_a_single_different_bit_is_noticed(together):
    def work(world):
        values = [torch.arange(1000.0), torch.zeros(3, dtype=torch.int64)]
        same = world.same(values)
        if world.rank == 1:
            values[0][517] = torch.nextafter(values[0][517], torch.tensor(1e9))
        return same, world.same(values)

    assert together(work) == [(True, False)] * 2


def test_a_device_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("alitok.core.distributed.choose_device", lambda name: torch.device("mps"))
    with pytest.raises(AlitokError, match="cannot share device mps"), join("mps"):
        pass
