"""Many images: the same ones however they are shared out, batched, or begun again."""

import numpy as np
import pytest
import torch

from alitok.core.blocks import Blocks
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.sampling import SamplingConfig, decoding
from alitok.sampling import job as sampling
from alitok.sampling.engine import Engine
from alitok.sampling.job import SamplingJob, blocks_of, fitting_batch, pixel_precision, sample_blocks
from alitok.sampling.memory import codes_bytes, decoder_bytes
from alitok.sampling.pipeline import Pipeline

WORLD = World(torch.device("cpu"))
JOB = SamplingJob((2, 0), 75, 4, SamplingConfig(guidance_scale=2.0))


def drawn(pipeline, world=WORLD, **options):
    return list(sample_blocks(pipeline, JOB, world, **{"batch_size": 64, **options}))


def images(blocks):
    return np.concatenate([block.images for block in sorted(blocks, key=lambda block: block.number)])


@pytest.mark.parametrize(("classes", "count"), [((4, 1, 7), 11), ((0,), 5), (tuple(range(9)), 4), ((3, 2), 100)])
def test_every_beginning_of_a_job_is_balanced(classes, count):
    plan = SamplingJob(classes, count)
    labels = plan.labels(range(count))
    for end in range(1, count + 1):
        counts = [int((labels[:end] == label).sum()) for label in classes]
        assert sum(counts) == end
        assert max(counts) - min(counts) <= 1
        assert counts == sorted(counts, reverse=True)  # the first classes have one more
    asked = list(plan.requests(range(2, count)))
    assert [request.label for request in asked] == labels[2:].tolist() == plan.labels(range(2, count)).tolist()
    assert [request.index for request in asked] == list(range(2, count))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100])
@pytest.mark.parametrize(("batch_size", "size"), [(1, 16), (16, 16), (31, 16), (64, 64), (100, 96)])
def test_blocks_cover_every_image_once(count, batch_size, size):
    blocks = blocks_of(count, batch_size)
    assert blocks.size == size
    assert [image for number in range(len(blocks)) for image in blocks[number]] == list(range(count))
    assert {len(blocks[number]) for number in range(len(blocks) - 1)} <= {size}
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_the_images_equal_those_of_one_call(pipeline):
    blocks = drawn(pipeline)
    assert [(block.number, block.indices) for block in blocks] == [(0, range(64)), (1, range(64, 75))]
    labels = np.concatenate([block.labels for block in blocks])
    assert labels.tolist() == ([2, 0] * 38)[:75]
    called = pipeline(labels.tolist(), seed=4, sampling=JOB.sampling)
    assert np.array_equal(images(blocks), np.stack([np.asarray(image) for image in called]).transpose(0, 3, 1, 2))
    assert len({image.tobytes() for image in images(blocks)}) > 60


def test_pixels_are_computed_in_groups_that_the_batch_does_not_change(pipeline, monkeypatch):
    shapes = []
    plain = decoding.PixelDecoder.__call__
    monkeypatch.setattr(
        decoding.PixelDecoder, "__call__", lambda self, codes: shapes.append(len(codes)) or plain(self, codes)
    )
    for batch_size in (1, 7, 64, 500):
        shapes.clear()
        drawn(pipeline, batch_size=batch_size)
        assert shapes == [16, 16, 16, 16, 11]


def test_batches_of_a_block_have_one_size(pipeline, monkeypatch):
    asked = []
    plain = Engine.sample
    monkeypatch.setattr(
        Engine,
        "sample",
        lambda self, requests: asked.append([request.index for request in requests]) or plain(self, requests),
    )
    drawn(pipeline, batch_size=7, blocks=Blocks(75, 32))
    assert [len(batch) for batch in asked] == [7] * 5 + [7] * 5 + [6] * 2
    assert asked[4] == [28, 29, 30, 31, 31, 31, 31]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_sharding_across_processes_changes_no_image(pipeline, size):
    whole = drawn(pipeline, batch_size=16)
    shares = [drawn(pipeline, World(WORLD.device, rank, size), batch_size=16) for rank in range(size)]
    assert sorted(block.number for share in shares for block in share) == [0, 1, 2, 3, 4]
    assert np.array_equal(images([block for share in shares for block in share]), images(whole))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_missing_blocks_are_sampled_identically(pipeline):
    whole = {block.number: block.images for block in drawn(pipeline, batch_size=16)}
    some = drawn(pipeline, batch_size=16, wanted=[4, 1, 2])
    assert [block.number for block in some] == [1, 2, 4]
    assert all(np.array_equal(block.images, whole[block.number]) for block in some)
    assert drawn(pipeline, batch_size=16, wanted=[]) == []
    first = sample_blocks(pipeline, SamplingJob((2, 0), 32, 4, JOB.sampling), WORLD, batch_size=16)
    assert all(np.array_equal(block.images, whole[block.number]) for block in first), "a shorter job"


def test_exact_codes_get_exact_pixels_and_others_a_trial(pipeline, monkeypatch):
    monkeypatch.setattr(decoding, "_decide", lambda tokenizer, codes: ["bf16", "fp32"][len(codes) == 1])
    assert pixel_precision(pipeline, JOB) == "fp32"
    rounded = Pipeline(pipeline.tokenizer, pipeline.generator, precision="bf16")
    assert pixel_precision(rounded, JOB) == "bf16"
    assert pixel_precision(rounded, SamplingJob((0,), 1)) == "fp32"
    half = drawn(pipeline, pixels="bf16")
    difference = images(half).astype(int) - images(drawn(pipeline))
    assert 1 <= np.abs(difference).max() < 20


def just_enough(pipeline, images):
    """Free memory for so many images: beside them a reserve, weights in two forms, and pixels of a group."""
    weights = sum(weight.nbytes for weight in pipeline.generator.parameters())
    batch = codes_bytes(pipeline.engine, images) + codes_bytes(pipeline.engine, 1) // 2
    return int((2 * weights + 16 * decoder_bytes(pipeline.tokenizer) + batch) / 0.95)


def test_the_batch_is_what_fits(pipeline, monkeypatch):
    free = just_enough(pipeline, 10)
    monkeypatch.setattr(sampling, "free_memory", lambda device: free)
    assert fitting_batch(pipeline, JOB, WORLD) == 10
    assert fitting_batch(pipeline, JOB, WORLD, 10) == 10
    assert fitting_batch(pipeline, SamplingJob((0,), 5), WORLD, 11) == 11  # one row each, without guidance
    with pytest.raises(AlitokError, match=r"A batch of 11 images takes .* free on cpu; use a batch size of at most 10"):
        fitting_batch(pipeline, JOB, WORLD, 11)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert fitting_batch(pipeline, JOB, WORLD) < 10
    monkeypatch.setattr(sampling, "free_memory", lambda device: 2 * free)
    assert fitting_batch(pipeline, JOB, WORLD) == 10
    for unknown in (1 << 50, None):
        monkeypatch.setattr(sampling, "free_memory", lambda device, unknown=unknown: unknown)
        assert fitting_batch(pipeline, JOB, WORLD) == 64
        assert fitting_batch(pipeline, JOB, WORLD, 1000) == 1000


def test_processes_agree_on_the_smallest_batch(pipeline, monkeypatch, together):
    def work(world):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
        monkeypatch.setattr(sampling, "free_memory", lambda device: just_enough(pipeline, 20 - 5 * world.rank))
        return fitting_batch(pipeline, JOB, world)

    assert together(work) == [15, 15]


def test_bad_jobs_are_rejected(pipeline):
    with pytest.raises(AlitokError, match="batch size must be at least 1, not 0"):
        drawn(pipeline, batch_size=0)
    with pytest.raises(AlitokError, match="batch size must be at least 1, not 0"):
        fitting_batch(pipeline, JOB, WORLD, 0)
    for classes, count in (((), 3), ((1,), 0)):
        with pytest.raises(AlitokError, match=f"needs images and classes, not {count} and {len(classes)}"):
            SamplingJob(classes, count)
    with pytest.raises(AlitokError, match="Class 9 does not exist"):
        list(sample_blocks(pipeline, SamplingJob((9,), 1), WORLD, batch_size=1))
