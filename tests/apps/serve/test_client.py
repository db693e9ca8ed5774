"""The client against a service on a port."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from alitok.apps.serve.client import Client, GeneratedImage, GeneratedRow, ResponseError
from alitok.core.errors import AlitokError


@pytest.fixture
def client(running):
    return Client(running.address)


def same(image, other):
    return np.array_equal(np.asarray(image), np.asarray(other))


def test_generate(client, pipeline):
    images = client.generate(["cup", 0], count=2, seed=3, settings={"guidance_scale": 4.0})
    wanted = pipeline([3, 3, 0, 0], seed=3, guidance_scale=4.0)
    assert [(each.class_name, each.label, each.seed, each.index) for each in images] == [
        ("cup", 3, 3, 0),
        ("cup", 3, 3, 1),
        ("tench", 0, 3, 2),
        ("tench", 0, 3, 3),
    ]
    assert all(same(each.image, want) for each, want in zip(images, wanted, strict=True))


def test_stream(client, pipeline):
    events = list(client.stream([1, 2], seed=5))
    rows = [each for each in events if isinstance(each, GeneratedRow)]
    assert sorted((each.index, each.row) for each in rows) == [(p, r) for p in range(2) for r in range(3)]
    assert {each.strip.size for each in rows} == {(12, 4)}
    finished = sorted((each for each in events if isinstance(each, GeneratedImage)), key=lambda each: each.index)
    assert all(same(each.image, want) for each, want in zip(finished, pipeline([1, 2], seed=5), strict=True))


def test_an_abandoned_stream_frees_its_slots(pipeline, make_service, until):
    gate = threading.Event()
    with make_service(pipeline, gate=gate, batch_size=1) as running:
        stream = Client(running.address).stream([0], count=5)
        gate.set()
        assert isinstance(next(stream), GeneratedRow)
        gate.clear()
        stream.close()
        until(lambda: running.service.batcher.waiting == 0)


def test_complete_encode_reconstruct_and_decode(client, pipeline, make_image):
    data = make_image()
    (image,) = client.generate([1], seed=2, completion=(data, 1))
    assert same(image.image, pipeline.complete(Image.open(io.BytesIO(data)), 1, 1, seed=2)[0])
    codes = client.encode([data, make_image(seed=4)])
    found = client.reconstruct(data)
    assert found.codes == codes[0]
    assert found.original.size == found.stage1.size == (12, 12)
    assert set(found.psnr) == {"stage1", "stage2"}
    last, first = client.decode(codes)[0], client.decode(codes, "stage1")[0]
    assert same(last, found.stage2)
    assert same(first, found.stage1)


@pytest.mark.parametrize("address", ["localhost:8000", "http://host:80a", "http://[", "http://host:99999"])
def test_invalid_urls(address):
    with pytest.raises(AlitokError, match="not the URL of a service"):
        Client(address)


def test_errors(client, pipeline, make_service):
    with pytest.raises(ResponseError, match="There is no class 'dog'") as error:
        client.generate(["dog"])
    assert (error.value.status, error.value.code, error.value.retry_after) == (422, "invalid", None)
    with pytest.raises(ResponseError, match="Unknown image format"):
        client.encode([b"text"])
    for address, shown in (
        ("http://127.0.0.1:9", r"127\.0\.0\.1:9"),
        ("http://me@[::1]:9/below", r"\[::1\]:9"),
        ("http://127.0.0.1", r"127\.0\.0\.1:80"),
        ("https://127.0.0.1:", r"127\.0\.0\.1:443"),
    ):
        with pytest.raises(ResponseError, match=rf"The service at {shown} does not respond"):
            Client(address).models()
    with make_service(pipeline, key="correct-horse") as running:
        with pytest.raises(ResponseError, match="A valid key is required"):
            Client(running.address).models()
        assert Client(running.address, key="correct-horse").models()[0]["name"] == "tiny"


def test_a_stream_that_fails_after_its_start(pipeline, make_service):
    gate = threading.Event()
    with make_service(pipeline, gate=gate, limits={"deadline_seconds": 0.2}) as running:
        with pytest.raises(ResponseError, match=r"within 0\.2 s"):
            list(Client(running.address).stream([0]))
        gate.set()
        running.service.batcher.close(5)


def test_a_busy_service_reports_when_to_retry(pipeline, make_service, until):
    gate, limits = threading.Event(), {"max_waiting": 2, "max_images": 2, "max_uploads": 2}
    with make_service(pipeline, gate=gate, batch_size=1, limits=limits) as running:
        client = Client(running.address)
        waiting = client.stream([0], count=2)
        begun = threading.Thread(target=lambda: list(waiting))
        begun.start()
        until(lambda: running.service.batcher.running and running.service.batcher.waiting == 1)
        with pytest.raises(ResponseError) as error:
            client.generate([0], count=2)
        assert (error.value.status, error.value.retry_after) == (429, 1.0)
        gate.set()
        begun.join(20)
        assert len(client.generate([0], count=2)) == 2
