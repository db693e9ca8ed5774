"""The queue: bounded, fair, in time, freed when a client disconnects; a shutdown that loses nothing."""

import asyncio
import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from alitok.apps.serve import service
from alitok.apps.serve.batcher import Batcher, FinishedImage, gather_seconds
from alitok.apps.serve.errors import ServiceError
from alitok.apps.serve.model import ServedModel
from alitok.sampling import SampleRequest

from .conftest import served

ONE = {"classes": [0], "seed": 1}
FOUR = {"max_waiting": 4, "max_images": 4, "max_uploads": 4}


def post(running, body, path="/v1/images"):
    with running.client() as http:
        return http.post(path, json=body)


@pytest.fixture
def held(pipeline, make_service, until):
    """A service with a queue of four, and a batch of one that is held up until the gate opens."""
    gate = threading.Event()
    with (
        make_service(pipeline, gate=gate, batch_size=2, limits=FOUR) as running,
        ThreadPoolExecutor(16) as pool,
    ):
        running.gate, running.pool = gate, pool
        running.first = pool.submit(post, running, ONE)
        until(lambda: running.service.batcher.running)
        yield running
        gate.set()


def count(running, **labels):
    return running.service.metrics.registry.get_sample_value("alitok_requests_total", labels) or 0


def test_a_full_queue_rejects_with_a_time_to_retry(held, until):
    waiting = held.pool.submit(post, held, {**ONE, "count": 3})
    until(lambda: held.service.batcher.waiting == 3)
    refused = post(held, {**ONE, "count": 2})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert post(held, {**ONE, "count": 2}, "/v1/images/stream").status_code == 429
    last = held.pool.submit(post, held, ONE)
    until(lambda: held.service.batcher.waiting == 4)
    assert post(held, {"codes": [[0] * 12]}, "/v1/decode").status_code == 429
    held.gate.set()
    assert [each.result().status_code for each in (held.first, waiting, last)] == [200] * 3


def test_a_client_that_disconnects_frees_its_slots(held, until):
    async def leave():
        async with httpx.AsyncClient(base_url=held.address) as http:
            posted = asyncio.create_task(http.post("/v1/images", json={**ONE, "count": 4}))
            while held.service.batcher.waiting != 4:
                await asyncio.sleep(0.005)
            posted.cancel()
            await asyncio.gather(posted, return_exceptions=True)

    asyncio.run(leave())
    until(lambda: held.service.batcher.waiting == 0)
    until(lambda: count(held, route="/v1/images", method="POST", status="499") == 1)
    after = held.pool.submit(post, held, {**ONE, "count": 4})
    held.gate.set()
    assert after.result().status_code == 200


def test_a_batch_that_nobody_waits_for_is_abandoned(pipeline, make_service, until):
    gate = threading.Event()
    with make_service(pipeline, gate=gate) as running:
        with running.client() as http, http.stream("POST", "/v1/images/stream", json=ONE):
            until(lambda: running.service.batcher.running)
        until(lambda: count(running, route="/v1/images/stream", method="POST", status="200") == 1)
        gate.set()
        until(lambda: not running.service.batcher.running)
        assert running.service.metrics.registry.get_sample_value("alitok_images_total") == 0


def test_a_late_response_is_a_504_and_frees_its_slots(pipeline, make_service, until):
    gate = threading.Event()
    with make_service(pipeline, gate=gate, limits={"deadline_seconds": 0.3}, batch_size=1) as running:
        late = post(running, {**ONE, "count": 3})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
        assert running.service.batcher.waiting == 0
        streamed = post(running, ONE, "/v1/images/stream")
        assert streamed.text.strip().split("\n\n")[-1].startswith("event: error\ndata: ")
        assert "within 0.3 s" in streamed.text
        gate.set()
        until(lambda: not running.service.batcher.running)


def ask_without_reading(running, path, body):
    """A connection whose client sends a request and then takes nothing."""
    host, port = running.address.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/stream"])
def test_a_client_that_does_not_read_is_dropped(pipeline, make_service, until, monkeypatch, path):
    """Neither its answer nor its connection outlasts the time that it has."""
    monkeypatch.setattr("alitok.apps.serve.routes.to_base64", lambda *_: "x" * 4_000_000)
    limits = {"deadline_seconds": 2.0, "unread_seconds": 0.3}
    with make_service(pipeline, limits=limits) as running:
        connections = running.server.server_state.connections
        with ask_without_reading(running, path, json.dumps({**ONE, "count": 3}).encode()):
            until(lambda: connections)
            until(lambda: not connections, 20)
            until(lambda: not running.server.server_state.tasks)
            assert running.service.batcher.waiting == 0


def test_a_stream_that_is_read_slowly_ends_at_its_deadline(pipeline, make_service, until, monkeypatch):
    monkeypatch.setattr("alitok.apps.serve.routes.to_base64", lambda *_: "x" * 30_000_000)
    with make_service(pipeline, limits={"deadline_seconds": 1.0, "unread_seconds": 1.0}) as running:
        with ask_without_reading(running, "/v1/images/stream", json.dumps(ONE).encode()) as connection:
            tasks, began = running.server.server_state.tasks, time.monotonic()
            until(lambda: tasks)
            while tasks:
                connection.recv(20_000)  # a megabyte a second
                assert time.monotonic() < began + 15
                time.sleep(0.02)
        ended = [count(running, route="/v1/images/stream", method="POST", status=status) for status in ("200", "499")]
        assert sum(ended) == 1  # dropped by its connection or cut off at the deadline, whichever comes first


def test_codes_do_not_wait_for_a_long_batch(held, make_image):
    """They are done between two of its rows: the gate holds every row, and is opened for one at a time."""
    encoded = held.pool.submit(lambda: held.client().post("/v1/encode", files={"image": make_image()}))
    while not encoded.done():
        held.gate.set()
        held.gate.clear()
    assert encoded.result().status_code == 200


def test_a_shutdown_finishes_running_work_and_accepts_no_more(held, until):
    waiting = held.pool.submit(post, held, {**ONE, "count": 2})
    streamed = held.pool.submit(post, held, ONE, "/v1/images/stream")
    until(lambda: held.service.batcher.waiting == 3)
    held.service.batcher.stop_accepting()
    for path in ("/v1/images", "/v1/images/stream"):
        refused = post(held, ONE, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
    with held.client() as http:
        assert http.get("/healthz").status_code == 503
        assert http.get("/v1/models").status_code == 200
    held.server.should_exit = True
    held.gate.set()
    assert [held.first.result().status_code, len(waiting.result().json()["images"])] == [200, 2]
    assert "event: done" in streamed.result().text
    until(lambda: not held.service.batcher.alive)


def submit(batcher, *requests):
    with batcher.reserve(len(requests)) as reservation:
        return reservation.submit(requests)


def hold_up(monkeypatch, place, name):
    """Let a function wait for the gate that is given, which also knows whether it has begun."""
    works, gate = getattr(place, name), threading.Event()
    gate.begun = threading.Event()

    def held(*arguments):
        gate.begun.set()
        assert gate.wait(20)
        return works(*arguments)

    monkeypatch.setattr(place, name, held)
    return gate


@pytest.mark.parametrize("how", ["a stop", "a full queue"])
@pytest.mark.parametrize(("path", "name"), [("/v1/decode", "decode"), ("/v1/encode", "encode")])
def test_codes_in_progress_are_finished(pipeline, make_service, make_image, until, monkeypatch, how, path, name):
    """A request reserves all of its slots at once."""
    gate = hold_up(monkeypatch, ServedModel, name)
    body = {"json": {"codes": [[0] * 12] * 3}} if name == "decode" else {"files": [("image", make_image())] * 3}
    with make_service(pipeline, limits=FOUR) as running, ThreadPoolExecutor(4) as pool:
        asked = pool.submit(lambda: running.client().post(path, **body))
        until(gate.begun.is_set)
        assert running.service.batcher.waiting == 3
        if how == "a stop":
            running.service.batcher.stop_accepting()
            assert post(running, ONE).status_code == 503
        else:
            waiting = pool.submit(post, running, ONE)
            until(lambda: running.service.batcher.waiting == 4)
            assert post(running, ONE).status_code == 429
        gate.set()
        assert asked.result().status_code == 200, asked.result().text
        assert how == "a stop" or waiting.result().status_code == 200
        until(lambda: running.service.batcher.waiting == 0)


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/stream", "/v1/reconstruct", "/v1/encode"])
def test_uploads_being_decoded_at_a_shutdown_are_finished(pipeline, make_service, make_image, until, monkeypatch, path):
    gate, data = hold_up(monkeypatch, service, "read_square"), make_image()
    completion = {"image": base64.b64encode(data).decode(), "rows": 1}
    body = {"json": {**ONE, "completion": completion}} if "images" in path else {"files": {"image": data}}
    with make_service(pipeline) as running, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: running.client().post(path, **body))
        until(gate.begun.is_set)
        running.service.batcher.stop_accepting()
        time.sleep(1.2)  # longer than the thread sleeps between two checks
        gate.set()
        assert asked.result().status_code == 200, asked.result().text
        assert path != "/v1/images/stream" or "event: done" in asked.result().text
        until(lambda: not running.service.batcher.alive)


def test_a_batcher_that_timed_out_rejects_reserved_work(batcher):
    async def run():
        batcher.start()
        with batcher.reserve(2) as reservation:
            await asyncio.to_thread(batcher.close, 0.1)
            assert not batcher.alive
            with pytest.raises(ServiceError, match="shutting down"):
                await reservation.call(lambda: None)
            with pytest.raises(ServiceError, match="shutting down"):
                reservation.submit([SampleRequest(0)] * 2)
        assert batcher.waiting == 0

    asyncio.run(run())


def test_a_failed_batch_is_reported_and_the_next_one_runs(pipeline, make_service, caplog):
    with make_service(pipeline) as running:
        engine = running.service.model.pipeline.engine
        works = engine.stream

        def fails(requests):
            raise RuntimeError("/secret/path is broken")

        engine.stream = fails
        answer, streamed = post(running, ONE), post(running, ONE, "/v1/images/stream")
        engine.stream = works
        assert post(running, ONE).status_code == 200
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text + streamed.text
    assert "Traceback" not in answer.text + streamed.text
    assert "event: error" in streamed.text
    assert caplog.text.count("RuntimeError: /secret/path is broken") == 2  # the log has it


@pytest.fixture
def batcher(pipeline):
    made = Batcher(served(pipeline), batch_size=3, max_waiting=20)
    yield made
    made.close(10)


def test_requests_take_turns(batcher):
    """A request of many images does not hold up one that comes after it."""
    sizes, order = [], []
    batcher._on_batch = lambda images, seconds: sizes.append(images)

    def noted(name, job):
        """As the images are published; the loop may receive several at a time."""
        publish = job.publish
        job.publish = lambda event: (order.append(name) if isinstance(event, FinishedImage) else None, publish(event))
        return job

    async def finish(job):
        while not job.finished:
            await job.next()

    async def both():
        many = noted("many", submit(batcher, *[SampleRequest(0, index=index) for index in range(7)]))
        few = noted("few", submit(batcher, SampleRequest(1)))
        batcher.start()
        await asyncio.gather(finish(many), finish(few))

    asyncio.run(both())
    assert sorted(order) == ["few"] + ["many"] * 7
    assert "few" in order[:3]
    batcher.close(10)  # a batch is counted after its images are given out
    assert sizes == [3, 3, 2]


def test_clients_split_over_two_batches_come_together(batcher):
    """Two clients whose batches follow each other would otherwise alternate forever."""
    sizes, stream = [], batcher._engine.stream
    batcher._on_batch = lambda images, seconds: sizes.append(images)

    def slow(requests):
        for codes in stream(requests):
            time.sleep(0.05)
            yield codes

    batcher._engine.stream = slow

    async def client(start):
        await start.wait()
        for _ in range(8):
            job = submit(batcher, SampleRequest(0))
            while not job.finished:
                await job.next()

    async def both():
        now, later = asyncio.Event(), asyncio.Event()
        clients = [asyncio.create_task(client(start)) for start in (now, later)]
        batcher.start()
        now.set()
        while not batcher.running:
            await asyncio.sleep(0.001)
        later.set()
        await asyncio.gather(*clients)

    asyncio.run(both())
    assert sizes[0] == 1
    assert 2 in sizes


def test_the_wait_for_the_previous_batchs_clients_is_short():
    assert gather_seconds(0.02) == pytest.approx(0.002)
    assert gather_seconds(2.0) == pytest.approx(0.1)
    assert gather_seconds(10.0) == pytest.approx(0.2)


def test_a_result_for_a_closed_loop_does_no_harm(batcher):
    async def leave():
        submit(batcher, SampleRequest(0))

    asyncio.run(leave())
    batcher.start()
    batcher.close(10)
    assert not batcher.alive


def test_base64_of_a_completion_is_bounded(pipeline, make_service, make_image):
    with make_service(pipeline, limits={"max_upload_bytes": 1024, "max_body_bytes": 4096}) as running:
        text = base64.b64encode(make_image(40, 40)).decode()
        for body in (
            {**ONE, "completion": {"image": text[:2000], "rows": 1}},
            {**ONE, "completion": {"image": text, "rows": 1}},
        ):
            answer = post(running, body)
            assert answer.status_code == 413, json.dumps(answer.json())
