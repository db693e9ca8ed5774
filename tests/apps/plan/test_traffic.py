"""Times of steps against sums done by hand."""

import dataclasses

import pytest

from alitok.apps.plan.hardware import GPUS, gpu_named
from alitok.apps.plan.traffic import Assumptions, Messages, Ring, step_time
from alitok.core.errors import AlitokError

SURE = Assumptions(mfu=0.5, launch_seconds=1e-5, wait_seconds=1e-3, link_fraction=1.0)
GPU = dataclasses.replace(GPUS["a800"], link=200e9, network=100e9, per_machine=8)
NOTHING = Messages(blocks=0, whole=0, block=0, count=1, small=0, small_bytes=0)


def test_a_ring_passes_the_slowest_link():
    assert Ring.over(GPU, 8, SURE).bytes_per_second == 200e9
    assert Ring.over(GPU, 16, SURE).bytes_per_second == 100e9
    slow_inside = dataclasses.replace(GPU, link=32e9)
    assert Ring.over(slow_inside, 16, SURE).bytes_per_second == 32e9


def test_sums_and_gathering_by_hand():
    ring = Ring(4, 1e9, 0.0)
    assert ring.reduce(1e9) == pytest.approx(2 * 3 / 4)
    assert ring.gather(1e9) == pytest.approx(3 / 4)
    waits = Ring(5, 1e9, 1.0)  # three doublings reach five processes
    assert waits.reduce(0, messages=2) == pytest.approx(2 * 2 * 3)
    assert Ring(1, 1e9, 1.0).reduce(1e9) == 0


def timed(**changes):
    usual = {
        "flops": 1e12,
        "kernels": 1000,
        "microbatches": 1,
        "rate": 1e14,
        "messages": NOTHING,
        "parallel": "ddp",
        "ring": Ring(1, 1e9, 0.0),
        "assumed": SURE,
    }
    return step_time(**usual | changes)


def test_alone_a_step_is_arithmetic_or_launches():
    step = timed()
    assert (step.arithmetic, step.launches, step.exposed) == pytest.approx((0.02, 0.01, 0.0))
    assert step.seconds == pytest.approx(0.02)
    assert step.bound == "arithmetic"
    small = timed(kernels=4000)
    assert small.seconds == pytest.approx(0.04)
    assert (small.bound, small.efficiency) == ("kernel launches", pytest.approx(0.5))


def test_gradients_hide_behind_two_thirds_of_the_last_microbatch():
    ring = Ring(2, 1e9, 0.0)
    messages = dataclasses.replace(NOTHING, blocks=100 * 2**20)  # four buckets
    all_of_it, last = messages.blocks / 1e9, 25 * 2**20 / 1e9  # 2 x 1/2 of a message
    hidden = timed(messages=messages, ring=ring, flops=3 * all_of_it * 0.5e14)
    assert hidden.exposed == pytest.approx(last)
    seen = timed(messages=messages, ring=ring)
    assert seen.sent == pytest.approx(all_of_it + last)
    assert seen.exposed == pytest.approx(all_of_it - 0.02 * 2 / 3 + last)
    assert seen.bound == "communication"
    halved = timed(messages=messages, ring=ring, microbatches=2)
    assert halved.exposed == pytest.approx(all_of_it - 0.02 / 3 + last)


def test_sharded_weights_are_gathered_twice_for_every_microbatch():
    ring = Ring(2, 1e9, 0.0)
    messages = dataclasses.replace(NOTHING, blocks=10**8, block=10**7, count=10)
    one, two = (timed(messages=messages, ring=ring, parallel="fsdp", microbatches=count) for count in (1, 2))
    assert one.sent == pytest.approx(3 * 0.05 + 2 * 0.005)
    assert two.sent == pytest.approx(6 * 0.05 + 2 * 0.005)


def test_bad_values_are_rejected():
    with pytest.raises(AlitokError, match="mfu must be above 0"):
        Assumptions(mfu=0.0)
    with pytest.raises(AlitokError, match=r"Unknown GPU 'abacus'.*a800"):
        gpu_named("abacus")
    for name in ("4090", "RTX4090", "rtx 4090", " RTX 4090 "):
        assert gpu_named(name) is GPUS["4090"]
