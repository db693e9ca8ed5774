"""Uploaded images that are odd, huge, corrupt, or malicious."""

import asyncio
import base64
import io
import json
import random
import struct
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from alitok.apps.serve.errors import ServiceError
from alitok.apps.serve.options import ServiceLimits
from alitok.apps.serve.uploads import read_square
from alitok.data.crops import centre_crop, to_rgb


def png(width, height, body=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def animated(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def tiff():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "TIFF")
    return buffer.getvalue()


def many_scans(make_image):
    data = make_image(64, 64, "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : data.index(b"\xff\xda") + 40]
    return data[:-2] + scan * 200 + data[-2:]


def many_scans_after_an_index(make_image):
    """Pillow calls a JPEG file with an index of further images MPO, and reads all its scans."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    mpo = buffer.getvalue()
    start = mpo.index(b"MPF\0") - 4
    index = mpo[start : start + 2 + int.from_bytes(mpo[start + 2 : start + 4], "big")]
    data = many_scans(make_image)
    made = data[:2] + index + data[2:]
    assert Image.open(io.BytesIO(made)).format == "MPO"
    return made


BAD = {
    "a bomb": (lambda make: png(30_000, 30_000), 413),
    "a small bomb": (lambda make: png(6_000, 6_000), 413),
    "many scans": (many_scans, 413),
    "many scans after an index": (many_scans_after_an_index, 413),
    "cut short": (lambda make: make(64, 64)[:-900], 422),
    "a JPEG cut short": (lambda make: make(64, 64, "JPEG")[:-300], 422),
    "another kind": (lambda make: tiff(), 415),
    "a text": (lambda make: b"hello", 415),
    "a script for another program": (lambda make: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "nothing": (lambda make: b"", 422),
    "a header alone": (lambda make: make()[:20], 422),
    "no pixels": (lambda make: png(16, 16), 422),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("path", ["/v1/reconstruct", "/v1/encode"])
def test_bad_uploads(http, make_image, path, name):
    make, status = BAD[name]
    answer = http.post(path, files={"image": make(make_image)})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "code"}
    assert "Traceback" not in answer.text
    assert "/" not in answer.json()["error"]["message"]


def test_uploads_whose_clients_disconnected_still_count(pipeline, make_service, make_image, until, monkeypatch):
    """Their threads go on: otherwise any number of large images could be in memory."""
    gate, at_once, most = threading.Event(), Counter(), []

    def held(*arguments):
        at_once["now"] += 1
        most.append(at_once["now"])
        assert gate.wait(20)
        at_once["now"] -= 1
        return read_square(*arguments)

    monkeypatch.setattr("alitok.apps.serve.service.read_square", held)
    with make_service(pipeline) as running:

        async def leave():
            async with httpx.AsyncClient(base_url=running.address) as http:
                posted = [asyncio.create_task(http.post("/v1/encode", files={"image": b"x"})) for _ in range(2)]
                while len(most) < 2:
                    await asyncio.sleep(0.005)
                for each in posted:
                    each.cancel()
                await asyncio.gather(*posted, return_exceptions=True)

        asyncio.run(leave())
        until(lambda: running.service.batcher.waiting == 0)
        with ThreadPoolExecutor(2) as pool:
            files = {"image": make_image()}
            later = [pool.submit(httpx.post, f"{running.address}/v1/encode", files=files) for _ in range(2)]
            until(lambda: running.service.batcher.waiting == 2)
            time.sleep(0.1)  # in which a third would begin
            gate.set()
            assert [each.result().status_code for each in later] == [200, 200]
    assert max(most) == 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_used(kind):
    square = np.asarray(read_square(animated(kind), 12, ServiceLimits()))
    assert (square == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (12, 12)])
def test_odd_sizes(make_image, size):
    """A strip one pixel high would take all memory when resized."""
    data = make_image(*size)
    square = read_square(data, 64, ServiceLimits())
    assert square.size == (64, 64)


def test_long_images_give_the_same_crop(make_image):
    data = make_image(160, 32)
    whole = centre_crop(to_rgb(Image.open(io.BytesIO(data))), 16)
    assert np.array_equal(np.asarray(read_square(data, 16, ServiceLimits())), np.asarray(whole))


def test_upload_limits(pipeline, make_service, make_image):
    limits = {"max_upload_bytes": 2000, "max_body_bytes": 8000, "max_uploads": 2}
    with make_service(pipeline, limits=limits) as running, running.client() as http:
        small, large = make_image(8, 8), make_image(40, 40)
        assert http.post("/v1/encode", files=[("image", small)] * 2).status_code == 200
        assert http.post("/v1/encode", files=[("image", small)] * 3).status_code == 422
        assert http.post("/v1/encode", files={"image": large}).status_code == 413
        assert http.post("/v1/reconstruct", files={"image": large}).status_code == 413


def test_invalid_forms(http, make_image):
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x",
        b"--x\r\n\r\n\r\n--x--",
        b"--y--",
        b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--x--\r\n',
    ):
        answer = http.post("/v1/reconstruct", content=body, headers=kind)
        assert answer.status_code == 422, (body, answer.text)
        assert set(answer.json()) == {"error"}
    assert (
        http.post("/v1/reconstruct", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 422
    )
    assert http.post("/v1/reconstruct", json={}).status_code == 415
    assert http.post("/v1/reconstruct", files={"other": make_image()}).status_code == 422


def mutated(data, rng):
    """A file with some bytes changed, dropped, repeated, or truncated."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[place] = rng.randrange(256)
            case 1:
                changed[place : place + rng.randint(1, 9)] = rng.randbytes(rng.randint(1, 9))
            case 2:
                del changed[place : place + rng.randint(1, 30)]
            case 3:
                changed[place:place] = changed[place : place + rng.randint(1, 30)]
            case 4:  # a length or a size
                changed[place : place + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xff\xff"]
                )
        if not changed:
            return b""
    return bytes(changed)


@pytest.fixture(scope="module")
def corpus(make_image):
    """Small valid files of several kinds, and 600 seeded mutations of them."""
    valid = [
        make_image(),
        make_image(mode="P", kind="GIF"),
        make_image(mode="RGBA"),
        make_image(mode="L"),
        make_image(kind="JPEG"),
        make_image(kind="JPEG", mode="CMYK"),
        make_image(kind="JPEG", progressive=True),
        make_image(kind="WEBP"),
        make_image(kind="WEBP", lossless=True),
        make_image(kind="BMP"),
        animated("GIF"),
        animated("WEBP"),
        animated("PNG"),
        tiff(),
    ]
    rng = random.Random(0)
    return [mutated(rng.choice(valid), rng) for _ in range(600)]


def outcome(data):
    try:
        square = read_square(data, 12, ServiceLimits())
    except ServiceError as error:
        return error.status, error.message
    assert square.size == (12, 12)
    return 200, ""


def test_mutated_files_give_an_image_or_an_error(corpus):
    outcomes = Counter()
    for data in corpus:
        status, message = outcome(data)
        assert "/" not in message
        assert "0x" not in message
        outcomes[status] += 1
    assert set(outcomes) <= {200, 413, 415, 422}
    assert min(outcomes[200], outcomes[415], outcomes[422]) > 20, outcomes


def test_mutated_files_over_http(http, corpus):
    for number, data in enumerate(corpus[:60]):
        path = ["/v1/reconstruct", "/v1/encode", "/v1/images"][number % 3]
        if path == "/v1/images":
            completion = {"image": base64.b64encode(data).decode(), "rows": 1}
            answer = http.post(path, json={"classes": [0], "completion": completion})
        else:
            answer = http.post(path, files={"image": data})
        assert answer.status_code in (200, 413, 415, 422), answer.text
        if answer.status_code != 200:
            message = json.loads(answer.text)["error"]["message"]
            assert "Traceback" not in message
            assert "/" not in message
