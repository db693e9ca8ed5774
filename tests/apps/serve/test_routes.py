"""Routes of the model: images and streams equal the pipeline's, whatever else is served; codes both ways."""

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastapi.exceptions import RequestValidationError
from PIL import Image

from alitok.core.images import to_float, to_uint8
from alitok.data.crops import centre_crop, to_array, to_rgb
from alitok.sampling import SamplingOverrides
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Tokenizer


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def generate(http, **body):
    answer = http.post("/v1/images", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["images"]


def events(http, **body):
    """Name and data of each event."""
    answer = http.post("/v1/images/stream", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_images_are_those_of_the_pipeline(http, pipeline):
    images = generate(http, classes=["Golden_Retriever", 0, "7"], count=2, seed=5)
    wanted = pipeline([1, 1, 0, 0, 2, 2], seed=5)
    assert [image["class"] for image in images] == ["golden retriever"] * 2 + ["tench"] * 2 + ["7"] * 2
    assert [(image["label"], image["seed"], image["index"]) for image in images] == [
        (label, 5, index) for index, label in enumerate([1, 1, 0, 0, 2, 2])
    ]
    for image, expected in zip(images, wanted, strict=True):
        assert np.array_equal(pixels(image["data"]), np.asarray(expected))


def test_settings_reach_the_engine(http, pipeline):
    settings = {"guidance_scale": 6.0, "guidance_power": 2.0, "guidance_schedule": "linear", "temperature": 0.5}
    settings |= {"top_k": 9, "top_p": 0.8}
    images = generate(http, classes=[3], count=4, seed=1, **settings)
    wanted = pipeline([3] * 4, seed=1, sampling=SamplingOverrides(**settings).apply_to(pipeline.sampling))
    assert all(np.array_equal(pixels(a["data"]), np.asarray(b)) for a, b in zip(images, wanted, strict=True))
    assert any(
        a["data"] != b["data"] for a, b in zip(images, generate(http, classes=[3], count=4, seed=1), strict=True)
    )


def test_a_seed_chosen_by_the_service_reproduces_the_images(http):
    first = generate(http, classes=[0], count=2, seed=None)
    assert first[0]["seed"] == first[1]["seed"]
    assert generate(http, classes=[0], count=2, seed=first[0]["seed"]) == first
    assert generate(http, classes=[0])[0]["seed"] != first[0]["seed"]


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_formats(http, kind):
    image = generate(http, classes=[0], seed=1, format=kind)[0]
    opened = Image.open(io.BytesIO(base64.b64decode(image["data"])))
    assert (opened.format, opened.size, image["format"]) == (kind.upper(), (12, 12), kind)
    same = np.array_equal(np.asarray(opened), pixels(generate(http, classes=[0], seed=1)[0]["data"]))
    assert same is (kind != "jpeg")


def test_a_completion_keeps_the_first_rows(http, pipeline, make_image):
    data = make_image()
    completion = {"image": base64.b64encode(data).decode(), "rows": 2}
    images = generate(http, classes=[0, 1], seed=3, completion=completion)
    wanted = pipeline.complete(Image.open(io.BytesIO(data)), 2, [0, 1], seed=3)
    assert all(np.array_equal(pixels(a["data"]), np.asarray(b)) for a, b in zip(images, wanted, strict=True))
    free = generate(http, classes=[0, 1], seed=3, completion={**completion, "rows": 0})
    assert free == generate(http, classes=[0, 1], seed=3)


def test_a_stream_has_every_row_and_the_same_images(http, pipeline):
    body = {"classes": ["cup", 0], "seed": 4, "format": "webp"}
    stream = events(http, **body)
    assert stream[0] == (
        "start",
        {
            "images": [
                {"class": "cup", "label": 3, "seed": 4, "index": 0},
                {"class": "tench", "label": 0, "seed": 4, "index": 1},
            ],
            "rows": 3,
        },
    )
    assert stream[-1] == ("done", {})
    rows = [data for name, data in stream if name == "row"]
    assert sorted((row["index"], row["row"]) for row in rows) == [(p, r) for p in range(2) for r in range(3)]
    whole = {data["index"]: data for name, data in stream if name == "image"}
    plain = generate(http, **body)
    assert [whole[index]["data"] for index in range(2)] == [image["data"] for image in plain]
    assert {data["format"] for data in whole.values()} == {"webp"}
    expected = list(pipeline.stream(["cup", 0], seed=4))[:-1]
    for row in rows:
        strip = expected[row["row"]].images[row["index"]].transpose(1, 2, 0)
        assert np.abs(pixels(row["data"]) - strip).max() <= 1  # decoded alone, and in a batch of two


def test_without_a_causal_decoder_only_finished_images_are_streamed(pipeline, make_service):
    config = replace(pipeline.tokenizer.config, stage1=None)
    tokenizer = Tokenizer(config).eval()
    tokenizer.load_state_dict(pipeline.tokenizer.state_dict(), strict=False)
    lone = Pipeline(tokenizer, pipeline.generator, pipeline.sampling)
    with make_service(lone) as running, running.client() as http:
        stream = events(http, classes=[0, 1], seed=2)
        assert [name for name, _ in stream] == ["start", "image", "image", "done"]
        assert stream[0][1]["rows"] == 0
        assert http.get("/v1/models").json()["models"][0]["stages"] == ["stage2"]
        assert http.post("/v1/decode", json={"codes": [[0] * 12], "stage": "stage1"}).status_code == 422
        assert generate(http, classes=[0, 1], seed=2)[1]["data"] == stream[2][1]["data"]


def test_a_response_does_not_depend_on_other_requests(pipeline, make_service, until):
    body = {"classes": [1, "cup"], "count": 2, "seed": 11, "guidance_scale": 3.5}
    settings = [{}, {"guidance_scale": 9.0}, {"temperature": 0.0}, {"top_k": 5, "guidance_scale": 1.0}]
    others = [
        {"classes": [number % 4], "count": 1 + number % 3, "seed": number, **settings[number // 2 % 4]}
        for number in range(20)
    ]
    gate = threading.Event()
    gate.set()
    with make_service(pipeline, gate=gate) as running, running.client() as http, ThreadPoolExecutor(24) as pool:
        alone, watched = generate(http, **body), events(http, **body)
        by_themselves = [generate(http, **other) for other in others]
        gate.clear()  # so that all the others wait, and then share batches
        held = pool.submit(generate, http, classes=[0], seed=0)
        until(lambda: running.service.batcher.running)
        among = [pool.submit(generate, http, **each) for each in [*others[:10], body, *others[10:]]]
        streamed = pool.submit(events, http, **body)
        until(lambda: running.service.batcher.waiting == 8 + sum(other["count"] for other in others))
        gate.set()
        held.result()
        found = [future.result() for future in among]
        again = streamed.result()
    assert found[10] == alone
    assert found[:10] + found[11:] == by_themselves
    assert sorted(again, key=json.dumps) == sorted(watched, key=json.dumps)  # images of a stream may overtake others
    counted = running.service.metrics.registry.get_sample_value
    assert counted("alitok_batch_images_sum") == 4 + 4 + 39 + 1 + 47  # the last of them in batches of up to 32
    assert counted("alitok_batch_images_count") <= 2 + 20 + 1 + 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"classes": ["tenhc"]}, "There is no class 'tenhc'; near: tench (0)."),
        ({"classes": [4]}, "Class 4 does not exist; classes are 0 to 3."),
        ({"classes": []}, "classes: List should have at least 1 item"),
        ({"classes": [True]}, "classes.0"),
        ({"classes": [0], "count": 65}, "At most 64 images"),
        ({"classes": [0], "count": 0}, "count: Input should be greater than or equal to 1."),
        ({"classes": [0], "seed": -1}, "seed"),
        ({"classes": [0], "seed": 2**53}, "seed"),
        ({"classes": [0], "temperature": 1e-9}, "temperature must be 0 or at least 1e-06"),
        ({"classes": [0], "top_p": 0}, "top_p"),
        ({"classes": [0], "format": "bmp"}, "format"),
        ({"classes": [0], "guidance_sacle": 3}, "Unknown field guidance_sacle; did you mean guidance_scale"),
        ({"classes": [0], "guidance": 3}, "Unknown field guidance; did you mean guidance_scale or guidance_power or"),
        ({"classes": [0], "xyz": 3}, "Unknown field xyz; known fields: classes, count, seed, guidance_scale,"),
        (
            {"classes": [0], "completion": {"image": "AAAA", "row": 4}},
            "completion: Unknown field row; did you mean rows?",
        ),
        ({"classes": [0], "guidance_scale": 1.0, "soft_guidance": True}, "soft_guidance"),
        ({"classes": [0], "completion": {"image": "AAAA", "rows": 4}}, "rows must be 0 to 3"),
        ({"classes": [0], "completion": {"image": "!", "rows": 1}}, "not base64"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/stream"])
def test_invalid_requests(http, path, body, message):
    answer = http.post(path, json=body)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "invalid"


def test_a_field_name_that_is_not_unicode(http):
    text = '{"classes": [0], "' + 99 * r"\ud800" + '": 3}'
    answer = http.post("/v1/images", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert f"Unknown field {50 * '?'};" in answer.json()["error"]["message"]


NOT_FINITE = '{"classes": [0], "guidance_scale": NaN}', '{"classes": [0], "temperature": Infinity}'
BAD_JSON = "{", "[" * 100_000, '{"classes": [' + "9" * 5000 + "]}", "null", "[]", "\xff", "", *NOT_FINITE


@pytest.mark.parametrize("text", BAD_JSON)
def test_invalid_bodies(http, text):
    answer = http.post("/v1/images", content=text.encode("latin-1"), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["message"]


MANY_FIELDS = {f"field-{number}": 0 for number in range(60_000)}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/images", {"classes": [0], **MANY_FIELDS}, "At most 50 fields"),
        ("/v1/images", {"classes": [0], "completion": MANY_FIELDS}, "completion: At most 50 fields"),
        ("/v1/images", {"classes": [None] * 60_000}, "classes.0"),
        ("/v1/decode", {"codes": [["x"] * 60_000]}, "codes.0.0"),
        ("/v1/decode", {"codes": [[]] * 60_000}, "codes.0"),
        ("/v1/decode", {"codes": [[0] * 70_000]}, "at most 65536 items"),
        ("/v1/decode", MANY_FIELDS, "At most 50 fields"),
    ],
)
def test_a_large_bad_body_makes_few_errors(http, monkeypatch, path, body, message):
    """They are made in the event loop, and take a hundred times the body's memory."""
    found, errors = [], RequestValidationError.errors
    monkeypatch.setattr(RequestValidationError, "errors", lambda self: found.append(len(errors(self))) or errors(self))
    answer = http.post(path, json=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]
    assert max(found) <= 60


def test_json_of_another_content_type_is_rejected(http):
    answer = http.post("/v1/images", content='{"classes": [0]}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type")


class Portions:
    """A gate that lets `count` portions of codes through, and all of them once it is set."""

    def __init__(self, count):
        self._left, self._open = threading.Semaphore(count), threading.Event()

    def wait(self, seconds):
        return self._left.acquire(timeout=0 if self._open.is_set() else seconds) or self._open.is_set()

    def set(self):
        self._open.set()
        self._left.release()


def test_a_row_is_sent_as_soon_as_its_codes_are_known(pipeline, make_service):
    gate = Portions(2)  # the prefix, and the codes of one row
    with make_service(pipeline, gate=gate) as running, running.client() as http:
        body = {"classes": [0], "seed": 1}
        with http.stream("POST", "/v1/images/stream", json=body) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            next(lines)  # the start
            first = json.loads(next(lines).removeprefix("data: "))
            assert (first["index"], first["row"]) == (0, 0)
            assert running.service.batcher.running
            gate.set()
            assert [json.loads(line.removeprefix("data: ")).get("row") for line in lines] == [1, 2, None, None]


def codes_of(pipeline, data):
    square = to_array(centre_crop(to_rgb(Image.open(io.BytesIO(data))), 12))
    return pipeline.tokenizer.encode(to_float(torch.from_numpy(square))[None])[0].tolist(), square


def test_encode_gives_the_codes_of_each_image(http, pipeline, make_image):
    files = [make_image(seed=1), make_image(30, 13, "JPEG", seed=2), make_image(9, 9, "WEBP", seed=3)]
    answer = http.post("/v1/encode", files=[("image", ("../../name", data)) for data in files])
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "codes": [codes_of(pipeline, data)[0] for data in files],
        "image_size": 12,
        "grid": 3,
        "prefix": 3,
    }


@pytest.mark.parametrize("stage", ["stage1", "stage2", None])
def test_decode_gives_the_image_of_each_stage(http, pipeline, stage):
    codes = torch.randint(0, 32, (3, 12))
    answer = http.post("/v1/decode", json={"codes": codes.tolist(), "stage": stage, "format": "webp"})
    with torch.inference_mode():
        wanted = torch.cat([to_uint8(pipeline.tokenizer.decode(each[None], stage)) for each in codes])
    images = answer.json()["images"]
    assert [image["format"] for image in images] == ["webp"] * 3
    assert [
        (pixels(image["data"]) == want.numpy().transpose(1, 2, 0)).all()
        for image, want in zip(images, wanted, strict=True)
    ]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0] * 11], "An image of this model has 12 codes."),
        ([[0] * 11 + [32]], "Codes must be 0 to 31."),
        ([[-1] + [0] * 11], "Codes must be 0 to 31."),
        ([[2**70] * 12], "Codes must be 0 to 31."),
        ([[0.5] * 12], "valid integer"),
        ([], "at least 1 item"),
        ([[0] * 12] * 65, "At most 64 images"),
    ],
)
def test_invalid_codes(http, codes, message):
    answer = http.post("/v1/decode", json={"codes": codes})
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]


def test_reconstruct_measures_the_error(http, pipeline, make_image):
    data = make_image()
    answer = http.post("/v1/reconstruct", files={"image": data}).json()
    codes, square = codes_of(pipeline, data)
    original = square.transpose(1, 2, 0).astype(int)
    assert answer["codes"] == codes
    assert (answer["grid"], answer["prefix"], answer["codebook_size"]) == (3, 3, 32)
    assert (pixels(answer["original"]) == original).all()
    for stage in ("stage1", "stage2"):
        error = ((pixels(answer[stage]) - original) / 255) ** 2
        assert answer["psnr"][stage] == pytest.approx(-10 * np.log10(error.mean()), abs=1e-4)
    apart = abs(pixels(answer["stage2"]) - original) * answer["difference_scale"]
    assert (pixels(answer["difference"]) == apart.clip(0, 255)).all()
