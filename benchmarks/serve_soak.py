"""A soak test: a mixture of valid and invalid requests, each with its expected statuses; see `serve.py`."""

from __future__ import annotations

import base64
import http.client
import io
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image

from alitok.apps.serve.client import Client, GeneratedImage, ResponseError

_SAMPLE_SECONDS = 1.0  # between memory samples


def in_threads(work: Callable[[], None], count: int) -> None:
    """Run `work` in `count` threads, and wait for all."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Soak:
    """A mixture of requests, each with its expected statuses; `info` is the model's, from /v1/models."""

    def __init__(self, address: str, info: dict[str, Any]) -> None:
        self.address, self.info = address, info
        self.sent: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")
        self.image = buffer.getvalue()
        self.kinds: dict[str, tuple[Callable[[random.Random, Client], None], set[int]]] = {
            "generate": (self._generate, {200, 429}),
            "stream": (self._stream, {200, 429}),
            "abandoned stream": (self._abandon, {200, 429}),
            "encode and decode": (self._codes, {200, 429}),
            "reconstruct": (lambda rng, client: client.reconstruct(self.image), {200, 429}),
            "complete": (self._complete, {200, 429}),
            "broken image": (lambda rng, client: client.encode([self.image[: rng.randrange(1, 9000)]]), {415, 422}),
            "not an image": (lambda rng, client: client.encode([rng.randbytes(500)]), {415, 422}),
            "unknown class": (lambda rng, client: client.generate(["no such class"]), {422}),
            "too many": (lambda rng, client: client.generate([0], count=1000), {422}),
            "wrong codes": (lambda rng, client: client.decode([[0]]), {422}),
            "too large": (lambda rng, client: client.encode([bytes(40 << 20)]), {413}),
            "not json": (self._not_json, {422}),
            "models": (lambda rng, client: client.models(), {200}),
        }

    def run(self, seconds: float, clients: int) -> dict[str, Any]:
        """Send requests; returns counts, and the service's memory in MB."""
        until, memory = time.monotonic() + seconds, []
        numbers = iter(range(1 << 40))

        def ask() -> None:
            while time.monotonic() < until:
                with self._lock:
                    rng = random.Random(next(numbers))
                self.one(rng)

        asking = threading.Thread(target=in_threads, args=(ask, clients))
        asking.start()
        while asking.is_alive():
            memory.append(metrics(self.address, "process_resident_memory_bytes")[0] / 1e6)
            asking.join(_SAMPLE_SECONDS)
        quarter = max(1, len(memory) // 4)
        settled, last = max(memory[quarter : 2 * quarter] or memory), max(memory[-quarter:])
        return {
            "seconds": seconds,
            "clients": clients,
            "sent": sum(self.sent.values()),
            "answered": sum(self.statuses.values()),
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "examples": (self.lost + self.wrong)[:10],
            "sent_by_kind": dict(sorted(self.sent.items())),
            "statuses": dict(sorted(self.statuses.items())),
            "memory_mb_settled": settled,
            "memory_mb_last": last,
            "memory_growth": last / settled - 1,
        }

    def one(self, rng: random.Random) -> None:
        """Send a random request and count its outcome."""
        kind = rng.choices(list(self.kinds), [8, 4, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0.2, 1, 1])[0]
        send, expected = self.kinds[kind]
        status, message = 200, ""
        with self._lock:
            self.sent[kind] += 1
        try:
            send(rng, Client(self.address, timeout=150))
        except ResponseError as error:
            status, message = error.status, str(error)
        except Exception as error:  # whatever it is, there was no response, and the client goes on
            status, message = 0, f"{type(error).__name__}: {error}"
        with self._lock:
            if status == 0:
                self.lost.append(f"{kind}: {message}")
                return
            self.statuses[str(status)] += 1
            if status not in expected:
                self.wrong.append(f"{kind}: {status} {message}")

    def _class(self, rng: random.Random) -> int:
        return rng.randrange(len(self.info["classes"]))

    def _generate(self, rng: random.Random, client: Client) -> None:
        count = rng.randint(1, 4)
        settings = {"guidance_scale": rng.choice([1.0, 3.0]), "top_k": rng.choice([0, 10])}
        images = client.generate([self._class(rng)], count=count, seed=rng.randrange(1000), settings=settings)
        if len(images) != count:
            raise ResponseError(f"{len(images)} images instead of {count}")

    def _stream(self, rng: random.Random, client: Client) -> None:
        if not isinstance(list(client.stream([self._class(rng)], seed=rng.randrange(1000)))[-1], GeneratedImage):
            raise ResponseError("a stream without its image")

    def _abandon(self, rng: random.Random, client: Client) -> None:
        stream = client.stream([self._class(rng)], count=4)
        for _ in range(rng.randrange(3)):
            next(stream)
        stream.close()

    def _codes(self, rng: random.Random, client: Client) -> None:
        client.decode(client.encode([self.image]), rng.choice(self.info["stages"]))

    def _complete(self, rng: random.Random, client: Client) -> None:
        client.generate([self._class(rng)], seed=1, completion=(self.image, rng.randint(0, self.info["grid"])))

    def _not_json(self, rng: random.Random, client: Client) -> None:
        host = self.address.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            text = base64.b64encode(rng.randbytes(30))
            connection.request("POST", "/v1/images", text, {"Content-Type": "application/json"})
            raise ResponseError("", connection.getresponse().status)
        except OSError as error:
            raise ResponseError(str(error)) from None
        finally:
            connection.close()


def metrics(address: str, *names: str) -> tuple[float, ...]:
    """Values from /metrics."""
    with urlopen(f"{address}/metrics") as answer:
        text = answer.read().decode()
    found = (re.search(rf"^{name} (\S+)", text, re.MULTILINE) for name in names)
    return tuple(float(match[1]) if match else 0.0 for match in found)
