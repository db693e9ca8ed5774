"""A service without a model, for situations that no model can be made to produce.

`Stub` is changed by a test while it runs: rows that come slowly, a key that is asked for, a full queue, a stream that
breaks off. Its images are plain colours of (class, seed, index, row), so the same request gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from alitok.apps.serve.guard import CONTENT_SECURITY_POLICY
from alitok.apps.serve.service import PAGE

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SIZE, GRID, PREFIX, CODEBOOK = 16, 4, 4, 128


class Stub:
    """What the stub answers, changed by tests between requests.

    Attributes:
        classes: names.
        gate: where not None, each row waits until a test releases it.
        key: asked for where not None.
        refuse: (status, sentence, headers) for the next POST request; then None again.
        break_after: the stream ends without a word after so many rows; then None again.
        fail_after: the stream says `error` after so many rows; then None again.
        asked: bodies of the requests for images, in order.
        sampling: the model's own settings.
    """

    def __init__(self) -> None:
        self.classes = [f"class {number}" for number in range(10)]
        self.gate: threading.Semaphore | None = None
        self.key: str | None = None
        self.refuse: tuple[int, str, dict[str, str]] | None = None
        self.break_after: int | None = None
        self.fail_after: int | None = None
        self.asked: list[dict[str, Any]] = []
        self.sampling: dict[str, Any] = {
            "guidance_scale": 3.0,
            "guidance_power": 0.5,
            "guidance_schedule": "cosine",
            "guidance_start": 0.0,
            "guidance_stop": 1.0,
            "temperature": 1.0,
            "top_k": 20,
            "top_p": 1.0,
        }
        self.address = ""

    def model(self) -> dict[str, Any]:
        return {
            "name": "stub",
            "image_size": SIZE,
            "classes": self.classes,
            "codes": PREFIX + GRID * GRID,
            "prefix": PREFIX,
            "grid": GRID,
            "codebook_size": CODEBOOK,
            "stages": ["stage1", "stage2"],
            "sampling": self.sampling,
            "limits": {"max_images": 16, "max_upload_bytes": 200_000},
            "run": False,
        }


def colour(label: int, seed: int, index: int, row: int) -> tuple[int, int, int]:
    mixed = hash((label, seed, index, row)) & 0xFFFFFF
    return mixed >> 16, (mixed >> 8) & 0xFF, mixed & 0xFF


def encoded(image: Image.Image, kind: str = "png") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """The stub at `stub.address`, on a free port."""
    handler = type("Bound", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    stub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Tests read no access log."""

    def do_GET(self) -> None:
        name = "index.html" if self.path == "/" else self.path.removeprefix("/static/")
        if self.path == "/" or self.path.startswith("/static/"):
            file = PAGE / name
            self.answer(
                200, file.read_bytes(), KINDS[file.suffix], {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
            )
        elif self.refused():
            return
        elif self.path == "/v1/models":
            self.json(200, {"models": [self.stub.model()]})
        else:
            self.fail(404, "There is nothing here.")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        if self.stub.refuse is not None:
            status, words, headers = self.stub.refuse
            self.stub.refuse = None
            self.fail(status, words, headers)
        elif self.path == "/v1/images/stream":
            self.stub.asked.append(json.loads(body))
            self.stream(json.loads(body))
        elif self.path == "/v1/reconstruct":
            self.reconstruct(body)

    def refused(self) -> bool:
        """Whether the key was asked for, or is wrong."""
        given = self.headers.get("Authorization")
        if self.stub.key is None or given == f"Bearer {self.stub.key}":
            return False
        self.fail(401, "This key is not known here." if given else "This service needs a key.")
        return True

    def stream(self, asked: dict[str, Any]) -> None:
        seed = 4242 if asked["seed"] is None else asked["seed"]
        labels = [label for label in asked["classes"] for _ in range(asked["count"])]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            images = [
                {"class": self.stub.classes[label], "label": label, "seed": seed, "index": index}
                for index, label in enumerate(labels)
            ]
            self.event("start", {"images": images, "rows": GRID})
            sent = 0
            for row in range(GRID):
                if self.stub.gate is not None:
                    self.stub.gate.acquire(timeout=30)
                for index, label in enumerate(labels):
                    strip = Image.new("RGB", (SIZE, SIZE // GRID), colour(label, seed, index, row))
                    self.event("row", {"index": index, "row": row, "data": encoded(strip)})
                    sent += 1
                    if sent == self.stub.break_after:
                        self.stub.break_after = None
                        return
                    if sent == self.stub.fail_after:
                        self.stub.fail_after = None
                        self.event("error", {"message": "The model ran out of memory."})
                        return
            for index, label in enumerate(labels):
                image = Image.new("RGB", (SIZE, SIZE))
                for y in range(SIZE):
                    image.paste(colour(label, seed, index, y * GRID // SIZE), (0, y, SIZE, y + 1))
                finished = {"index": index, "data": encoded(image, asked["format"]), "format": asked["format"]}
                self.event("image", finished)
            self.event("done", {})
        except (BrokenPipeError, ConnectionResetError):
            pass  # the page stopped the stream

    def event(self, name: str, data: dict[str, Any]) -> None:
        self.wfile.write(f": alive\n\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def reconstruct(self, body: bytes) -> None:
        if b"\x89PNG" not in body:
            self.fail(422, "This file is not a readable image.")
            return
        made = {name: encoded(Image.new("RGB", (SIZE, SIZE), shade)) for name, shade in _VERSIONS.items()}
        codes = [(number * 37) % CODEBOOK for number in range(PREFIX + GRID * GRID)]
        numbers = {"difference_scale": 4, "grid": GRID, "prefix": PREFIX, "codebook_size": CODEBOOK}
        self.json(200, {**made, "psnr": {"stage1": 21.5, "stage2": 23.25}, "codes": codes, **numbers})

    def fail(self, status: int, words: str, headers: dict[str, str] | None = None) -> None:
        self.json(status, {"error": {"message": words, "code": str(status)}}, headers)

    def json(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(content).encode(), "application/json", headers)

    def answer(self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


_VERSIONS = {"original": "#884422", "stage1": "#804020", "stage2": "#864321", "difference": "#101010"}
