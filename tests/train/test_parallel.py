"""Two processes on the halves of a batch do what one does on all of it; a killed pair continues to the same bits."""

import json

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from alitok.core.distributed import World
from alitok.train.state import TrainingState
from alitok.train.task import EngineConfig

STAGES = ["stage1", "stage2", "generator"]
ENGINES = [{}, {"parallel": "fsdp"}]


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_as_one_does_on_the_joined_batch(tmp_path, together, small, stage):
    small.run(stage, tmp_path / "one")
    together(lambda world: small.run(stage, tmp_path / "two", world))
    assert small.same_course(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_pair_that_died_continues_to_the_same_bits(tmp_path, together, small, stage, engine):
    def died(world):
        with pytest.raises(small.plug):
            small.run(stage, tmp_path / "cut", world, stop_at=5, **engine)

    whole = together(lambda world: small.run(stage, tmp_path / "whole", world, **engine))
    together(died)
    again = together(lambda world: small.run(stage, tmp_path / "cut", world, **engine))
    assert small.same_bits(whole[0], again[0])
    assert small.course(tmp_path / "whole") == small.course(tmp_path / "cut")


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_that_died_continues_to_the_same_bits(tmp_path, small, stage):
    whole = small.run(stage, tmp_path / "whole")
    for stop_at in (1, 3, 5):  # before the first checkpoint, where the discriminator begins, near the end
        with pytest.raises(small.plug):
            small.run(stage, tmp_path / "cut", stop_at=stop_at)
    assert small.same_bits(whole, small.run(stage, tmp_path / "cut"))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", ["stage1", "generator"])
def test_a_checkpoint_of_sharded_blocks_continues_with_whole_ones_and_back(tmp_path, together, small, stage, processes):
    def half(world):
        with pytest.raises(small.plug):
            small.run(stage, tmp_path / "mixed", world, stop_at=3, parallel="fsdp")

    def more(world):
        with pytest.raises(small.plug):
            small.run(stage, tmp_path / "mixed", world, stop_at=5)

    small.run(stage, tmp_path / "one")
    together(half)  # its checkpoint is that of step 2
    if processes == 1:
        more(small.alone)
    else:
        together(more)
    together(lambda world: small.run(stage, tmp_path / "mixed", world, parallel="fsdp"))
    assert small.same_course(tmp_path / "one", tmp_path / "mixed")


@pytest.mark.parametrize("stage", ["stage1", "generator"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_sharded_blocks_train_as_whole_ones_do(tmp_path, together, small, stage, activation_checkpointing):
    whole = small.run(stage, tmp_path / "one")
    ranks = together(
        lambda world: small.run(
            stage, tmp_path / "two", world, parallel="fsdp", activation_checkpointing=activation_checkpointing
        )
    )
    assert small.same_course(tmp_path / "one", tmp_path / "two")
    assert ranks[1] == {}
    assert {name: value.shape for name, value in ranks[0].items()} == {name: v.shape for name, v in whole.items()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", ["stage1", "generator"])
def test_microbatches_of_two_ranks_train_as_one_does_on_the_joined_batch(tmp_path, together, small, stage, engine):
    small.run(stage, tmp_path / "one")
    together(lambda world: small.run(stage, tmp_path / "two", world, grad_accum_steps=2, **engine))
    assert small.same_course(tmp_path / "one", tmp_path / "two")


def test_gradients_are_exchanged_with_the_last_microbatch_only(tmp_path, together, small):
    def exchanges(world: World, grad_accum_steps):
        """How often each module sent its gradients, step by step; the discriminator begins with the third."""
        task = small.task_of("stage1", world)
        state = TrainingState(
            task, small.loop, EngineConfig(grad_accum_steps=grad_accum_steps), tmp_path / str(grad_accum_steps), world
        )
        counts = {}

        def count(name, bucket):
            counts[name] = counts.get(name, 0) + 1
            sent = torch.distributed.all_reduce(bucket.buffer().div_(world.size), async_op=True)
            return sent.get_future().then(lambda future: future.value()[0])

        for name, module in state.callables.items():
            if isinstance(module, DistributedDataParallel):
                module.register_comm_hook(name, count)
        seen = []
        for _, batch in zip(range(small.steps), task.batches(0), strict=False):
            counts.clear()
            state.advance(batch, lambda: False)
            seen.append(dict(counts))
        return seen

    once = together(lambda world: exchanges(world, 1))
    assert once[0][0] == {"model": 1}  # so small a model is one message
    assert once[0][-1] == {"model": 1, "discriminator": 1}
    assert together(lambda world: exchanges(world, 4)) == once


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_that_fails_on_one_rank_is_left_out_on_both(tmp_path, together, small, rank, engine):
    def train(world):
        task = small.task_of("generator", world, poisoned=(2,) if world.rank == rank else ())
        small.run("generator", tmp_path / "two", world, task=task, **engine)
        return {name: value.numpy() for name, value in task.modules["model"].state_dict().items()} if not engine else {}

    first, second = together(train)
    assert small.same_bits(first, second)
    task = small.task_of("generator", small.alone, poisoned=(2,))
    small.run("generator", tmp_path / "one", task=task)
    courses = small.course(tmp_path / "one"), small.course(tmp_path / "two")
    assert [record["step"] for record in courses[0]] == [1, 2, 4, 5, 6]
    assert [record.get("skipped_steps") for record in courses[1]] == [None, None, 1, 1, 1]
    assert courses[0] == [pytest.approx(record, rel=2e-3, abs=1e-5) for record in courses[1]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", ["stage1", "generator"])
def test_too_many_failures_on_one_rank_restore_both(tmp_path, together, small, stage, engine):
    def train(world):
        task = small.task_of(stage, world, poisoned=(3, 4) if world.rank == 1 else ())
        small.run(stage, tmp_path, world, task=task, **engine)
        model = task.modules["model"].state_dict()
        whole = {name: value.numpy() for name, value in model.items() if type(value) is torch.Tensor}
        return task.batch_numbers, whole

    (batches, first), (others, second) = together(train)
    assert batches == others == [0, 1, 2, 3, 4, 5, 6]  # batch 5 is given to step 4, that of the restored checkpoint
    assert small.same_bits(first, second)
    guard = json.loads((tmp_path / "checkpoints" / "step-00000006" / "state.json").read_text())["guard"]
    assert guard == {"skipped": 2, "in_a_row": 0, "restores": 1, "shift": 1}


@pytest.mark.parametrize("engine", [{"grad_accum_steps": 4}, {"activation_checkpointing": True}])
@pytest.mark.parametrize("stage", STAGES)
def test_microbatches_and_recomputing_change_no_result(tmp_path, small, stage, engine):
    small.run(stage, tmp_path / "plain")
    small.run(stage, tmp_path / "other", **engine)
    assert small.same_course(tmp_path / "plain", tmp_path / "other")
