"""A Python client of the service.

from alitok.apps.serve.client import Client

client = Client("http://127.0.0.1:8000")
for result in client.generate(["3", 7], seed=0):
    result.image.save(f"{result.label}-{result.index}.png")
"""

from __future__ import annotations

import base64
import io
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from alitok.core.errors import AlitokError

try:
    import httpx
except ImportError:
    raise AlitokError("The client requires httpx: pip install 'alitok[client]'.") from None

Stage = Literal["stage1", "stage2"]


class ResponseError(AlitokError):
    """The service rejected a request or failed: `status` 0 = no response or a broken stream; `retry_after` in s."""

    def __init__(self, message: str, status: int = 0, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image and, besides the settings, what determines it."""

    class_name: str
    label: int
    seed: int
    index: int
    image: Image.Image


@dataclass(frozen=True)
class GeneratedRow:
    """A strip of the image number `index`, the `row`-th from the top; both count from 0."""

    index: int
    row: int
    strip: Image.Image


@dataclass(frozen=True)
class Reconstruction:
    """The crop that was encoded, its reconstruction by each decoder (or None), PSNR in dB, and the codes."""

    original: Image.Image
    stage1: Image.Image | None
    stage2: Image.Image | None
    psnr: Mapping[str, float | None]
    codes: list[int]


class Client:
    """Calls the service at `url`, such as `http://127.0.0.1:8000`; keeps no connection, so threads may share it.

    `timeout` is the seconds of silence after which a call fails. Raises `AlitokError` if the URL is invalid; all
    methods raise `ResponseError`.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 180.0) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # unmatched brackets, or an invalid port
            host, port = None, None
        if not host or parts.scheme not in ("http", "https"):
            raise AlitokError(f"{url} is not the URL of a service; write it as http://HOST:PORT.")
        netloc = parts.netloc.rpartition("@")[2].rstrip(":")
        self._address = netloc if port is not None else f"{netloc}:{443 if parts.scheme == 'https' else 80}"
        self._base = f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"
        self._stream = partial(
            httpx.stream,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=timeout,
            verify=ssl.create_default_context() if parts.scheme == "https" else False,  # the system's certificates
            trust_env=False,  # the key goes to the service only, not to a proxy or by .netrc
        )

    def models(self) -> list[dict[str, Any]]:
        """Metadata of the served models, as in `GET /v1/models`."""
        return self._json("GET", "/v1/models")["models"]

    def generate(
        self,
        classes: Sequence[str | int],
        *,
        count: int = 1,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        completion: tuple[bytes, int] | None = None,
    ) -> list[GeneratedImage]:
        """Generate `count` images of each class, given by name or number; `seed` None = chosen by the service.

        Omitted `settings`, such as `{"guidance_scale": 3.0}`, are the model's own; `completion` is an image file and
        how many of its rows of patches to keep.
        """
        body = _images_request(classes, count, seed, settings, completion)
        return [_generated(image, image["data"]) for image in self._json("POST", "/v1/images", json=body)["images"]]

    def stream(
        self,
        classes: Sequence[str | int],
        *,
        count: int = 1,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        completion: tuple[bytes, int] | None = None,
    ) -> Iterator[GeneratedRow | GeneratedImage]:
        """Generate the same images as `generate`, with their rows as they come; leaving the loop cancels the rest."""
        body = _images_request(classes, count, seed, settings, completion)
        with self._response("POST", "/v1/images/stream", json=body) as response:
            images: list[dict[str, Any]] = []
            for name, data in _events(response):
                if name == "start":
                    images = data["images"]
                elif name == "row":
                    yield GeneratedRow(data["index"], data["row"], _image(data["data"]))
                elif name == "image":
                    yield _generated(images[data["index"]], data["data"])
                elif name == "error":
                    raise ResponseError(data["message"])
                elif name == "done":
                    return
        raise ResponseError("The stream ended before the images were finished.")

    def reconstruct(self, image: bytes) -> Reconstruction:
        """Encode and decode an image file."""
        answer = self._json("POST", "/v1/reconstruct", files=_form([image]))
        stage1, stage2 = (None if answer[stage] is None else _image(answer[stage]) for stage in ("stage1", "stage2"))
        return Reconstruction(_image(answer["original"]), stage1, stage2, answer["psnr"], answer["codes"])

    def encode(self, images: Sequence[bytes]) -> list[list[int]]:
        """The codes of image files."""
        return self._json("POST", "/v1/encode", files=_form(images))["codes"]

    def decode(self, codes: Sequence[Sequence[int]], stage: Stage | None = None) -> list[Image.Image]:
        """The images of codes, by one of the decoders; None = the last one."""
        body = {"codes": [list(each) for each in codes], "stage": stage}
        return [_image(image["data"]) for image in self._json("POST", "/v1/decode", json=body)["images"]]

    def _json(self, method: str, path: str, *, json: Any = None, files: Any = None) -> Any:
        with self._response(method, path, json=json, files=files) as response:
            response.read()
            return response.json()

    @contextmanager
    def _response(self, method: str, path: str, *, json: Any = None, files: Any = None) -> Iterator[httpx.Response]:
        try:
            with self._stream(method, self._base + path, json=json, files=files) as response:
                if response.status_code != 200:
                    response.read()
                    raise _to_error(response)
                yield response
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ResponseError(f"The service at {self._address} does not respond: {reason}.") from None


def _images_request(
    classes: Sequence[str | int],
    count: int,
    seed: int | None,
    settings: Mapping[str, Any] | None,
    completion: tuple[bytes, int] | None,
) -> dict[str, Any]:
    body = {**(settings or {}), "classes": list(classes), "count": count, "seed": seed}
    if completion is not None:
        body["completion"] = {"image": base64.b64encode(completion[0]).decode("ascii"), "rows": completion[1]}
    return body


def _form(images: Sequence[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("image", ("image", image, "application/octet-stream")) for image in images]


def _to_error(response: httpx.Response) -> ResponseError:
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError, TypeError):
        message, code = f"The service responded with status {response.status_code} and no reason.", ""
    wait = response.headers.get("Retry-After", "")
    return ResponseError(message, response.status_code, code, float(wait) if wait.isdecimal() else None)


def _events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    name, data = "message", ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not field and data:
            yield name, json.loads(data)
            name, data = "message", ""


def _generated(label: Mapping[str, Any], data: str) -> GeneratedImage:
    return GeneratedImage(label["class"], label["label"], label["seed"], label["index"], _image(data))


def _image(data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    return image
