"""A small client of the service; needs nothing but Python's own library and Pillow.

from alitok.apps.serve.client import Client

client = Client("http://127.0.0.1:8000")
for drawn in client.draw(["3", 7], seed=0):
    drawn.image.save(f"{drawn.label}-{drawn.index}.png")
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from alitok.core.errors import AlitokError

Stage = Literal["stage1", "stage2"]


class AnswerError(AlitokError):
    """The service refused or failed.

    Attributes:
        status: of HTTP; 0 where a stream broke after it had begun.
        code: the service's short word.
        retry_after: seconds after which it asks to be tried again, or None.
    """

    def __init__(self, message: str, status: int = 0, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


@dataclass(frozen=True)
class Drawn:
    """A finished image and what it is a function of, beside the settings."""

    class_name: str
    label: int
    seed: int
    index: int
    image: Image.Image


@dataclass(frozen=True)
class DrawnRow:
    """A strip of image number `image`, the `row`-th from the top; both count from 0."""

    image: int
    row: int
    strip: Image.Image


@dataclass(frozen=True)
class Reconstruction:
    """An image after coding: the square that was encoded, what each decoder gives (or None), PSNR, and the codes."""

    original: Image.Image
    stage1: Image.Image | None
    stage2: Image.Image | None
    psnr: Mapping[str, float | None]
    codes: list[int]


class Client:
    """Calls one service; holds no connection between calls, so threads may share it.

    Args:
        address: such as `http://127.0.0.1:8000`.
        key: that the service asks for, if it does.
        timeout: seconds of silence after which a call fails.

    Raises:
        AlitokError: the address is none.
    """

    def __init__(self, address: str, *, key: str | None = None, timeout: float = 180.0) -> None:
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError:  # of brackets that do not match, and of ports that are none
            host, port = None, None
        if not host or parts.scheme not in ("http", "https"):
            raise AlitokError(f"{address} is no address of a service; write it as http://HOST:PORT.")
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._base = host, port, parts.path.rstrip("/")
        usual = "" if port is not None else ":443" if parts.scheme == "https" else ":80"
        self._told = parts.netloc.rpartition("@")[2].rstrip(":") + usual
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._timeout = timeout

    def models(self) -> list[dict[str, Any]]:
        """The facts of the served models, as in `GET /v1/models`."""
        return self._json("GET", "/v1/models")["models"]

    def draw(
        self,
        classes: Sequence[str | int],
        *,
        count: int = 1,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        keep: tuple[bytes, int] | None = None,
    ) -> list[Drawn]:
        """Draw `count` images of each class.

        Args:
            classes: names or numbers.
            count: at least 1.
            seed: of all; None = the service draws one.
            settings: such as `{"guidance_scale": 3.0}`; what is left out is the model's own.
            keep: an image file and the number of its rows of patches that are kept.

        Raises:
            AnswerError: the service refused or failed, or does not answer.
        """
        answer = self._json("POST", "/v1/images", _order(classes, count, seed, settings, keep))
        return [_drawn(image, image["data"]) for image in answer["images"]]

    def stream(
        self,
        classes: Sequence[str | int],
        *,
        count: int = 1,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        keep: tuple[bytes, int] | None = None,
    ) -> Iterator[DrawnRow | Drawn]:
        """Draw the same images, with their rows as they come; leaving the loop stops the drawing.

        Raises:
            AnswerError: as for `draw`, or the stream broke off.
        """
        with self._answer(
            "POST", "/v1/images/stream", *_posted(_order(classes, count, seed, settings, keep))
        ) as answer:
            images: list[dict[str, Any]] = []
            for name, data in _events(answer):
                if name == "start":
                    images = data["images"]
                elif name == "row":
                    yield DrawnRow(data["image"], data["row"], _image(data["data"]))
                elif name == "image":
                    yield _drawn(images[data["image"]], data["data"])
                elif name == "error":
                    raise AnswerError(data["message"])
                elif name == "done":
                    return
        raise AnswerError("The service broke off before the images were finished.")

    def reconstruct(self, image: bytes) -> Reconstruction:
        """What coding leaves of an image file.

        Raises:
            AnswerError: the service refused or failed, or does not answer.
        """
        answer = self._json("POST", "/v1/reconstruct", files=[image])
        first, second = (None if answer[stage] is None else _image(answer[stage]) for stage in ("stage1", "stage2"))
        return Reconstruction(_image(answer["original"]), first, second, answer["psnr"], answer["codes"])

    def encode(self, images: Sequence[bytes]) -> list[list[int]]:
        """The codes of image files.

        Raises:
            AnswerError: the service refused or failed, or does not answer.
        """
        return self._json("POST", "/v1/encode", files=images)["codes"]

    def decode(self, codes: Sequence[Sequence[int]], stage: Stage | None = None) -> list[Image.Image]:
        """The images of codes, by one of the decoders; None = the last one.

        Raises:
            AnswerError: the service refused or failed, or does not answer.
        """
        answer = self._json("POST", "/v1/decode", {"codes": [list(each) for each in codes], "stage": stage})
        return [_image(image["data"]) for image in answer["images"]]

    def _json(self, method: str, path: str, body: Any = None, files: Sequence[bytes] | None = None) -> Any:
        with self._answer(method, path, *(_posted(body) if files is None else _form(files))) as answer:
            return json.loads(answer.read())

    @contextmanager
    def _answer(self, method: str, path: str, body: bytes | None, kind: str) -> Iterator[http.client.HTTPResponse]:
        """A good answer, whose connection is closed at the end of the context."""
        connection = self._connect(self._host, self._port, timeout=self._timeout)
        headers = self._headers if body is None else {**self._headers, "Content-Type": kind}
        try:
            connection.request(method, self._base + path, body, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise _refusal(answer)
            yield answer
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise AnswerError(f"The service at {self._told} does not answer: {reason}.") from None
        finally:
            connection.close()


def _order(
    classes: Sequence[str | int],
    count: int,
    seed: int | None,
    settings: Mapping[str, Any] | None,
    keep: tuple[bytes, int] | None,
) -> dict[str, Any]:
    order = {**(settings or {}), "classes": list(classes), "count": count, "seed": seed}
    if keep is not None:
        order["completion"] = {"image": base64.b64encode(keep[0]).decode("ascii"), "rows": keep[1]}
    return order


def _posted(body: Any) -> tuple[bytes | None, str]:
    return (None if body is None else json.dumps(body).encode()), "application/json"


def _form(files: Sequence[bytes]) -> tuple[bytes, str]:
    """The body and its kind of a form with these files in its field `image`."""
    border = secrets.token_hex(16)
    head = 'Content-Disposition: form-data; name="image"; filename="image"\r\nContent-Type: application/octet-stream'
    parts = [f"--{border}\r\n{head}\r\n\r\n".encode() + file + b"\r\n" for file in files]
    return b"".join([*parts, f"--{border}--\r\n".encode()]), f"multipart/form-data; boundary={border}"


def _refusal(answer: http.client.HTTPResponse) -> AnswerError:
    try:
        fault = json.loads(answer.read())["error"]
        message, code = str(fault["message"]), str(fault["code"])
    except (ValueError, KeyError, TypeError):
        message, code = f"The service answered {answer.status} without saying why.", ""
    wait = answer.headers.get("Retry-After", "")
    return AnswerError(message, answer.status, code, float(wait) if wait.isdecimal() else None)


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    name, data = "message", ""
    for line in answer:
        field, _, value = line.decode("utf-8").rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not field and data:
            yield name, json.loads(data)
            name, data = "message", ""


def _drawn(wanted: Mapping[str, Any], data: str) -> Drawn:
    return Drawn(wanted["class"], wanted["label"], wanted["seed"], wanted["index"], _image(data))


def _image(data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    return image
