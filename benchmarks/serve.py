"""The service under load, beside the engine alone; and for a long time under requests good and bad.

    python benchmarks/serve.py                                      # random weights, 1, 8 and 32 clients, 60 s each
    python benchmarks/serve.py --model runs/demo/model --seconds 60
    python benchmarks/serve.py --soak 1800                          # half an hour of mixed requests

The engine alone draws batches of `--batch-size` pictures in this process, codes and pixels, before the service starts
with the same batch and the same threads. Then `alitok serve` runs in a process of its own, and each client, a thread
here, asks for one picture after the other, of another class and seed each time. `ratio` is the service's pictures a
second over the engine's. `first_row` is the time to the first row of a watched picture over the time to its end, the
median of some.

The soak sends a seeded mixture: pictures, streams read to the end and streams that are left, codes both ways, and
requests that must be refused. Each has the statuses that are right for it; `lost` counts requests that got no answer,
`wrong` those with another status. Memory is the service's own, as /metrics tells it: the largest of the second quarter
of the time, when all buffers are there, beside the largest of the last. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import itertools
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image

from alitok.serve.client import AnswerError, Client, Drawn, DrawnRow

_WATCHED = 5  # streams whose first row is timed
_SAMPLE_SECONDS = 1.0  # between two looks at the memory


def random_pair(preset: str, directory: Path) -> Path:
    """A pair of a named size with random weights, saved."""
    import torch

    from alitok.generator import Generator
    from alitok.jobs.pipeline import Pipeline
    from alitok.tokenizer import Tokenizer
    from alitok.workflow.bench import named_configs

    torch.manual_seed(0)
    tokenizer, generator, sampling = named_configs(preset)
    drawing = Generator(generator).eval()
    torch.nn.init.normal_(drawing.output.weight, std=0.02)  # starts at zero, which would draw all codes alike
    Pipeline(Tokenizer(tokenizer).eval(), drawing, sampling).save_pretrained(directory)
    return directory


def engine_alone(model: Path, batch_size: int, seconds: float) -> float:
    """Pictures a second of full batches, codes and pixels, without a service."""
    from alitok.generator import SampleRequest
    from alitok.jobs.pipeline import Pipeline
    from alitok.jobs.synthesize import synthesize
    from alitok.serve.model import ServedModel

    served = ServedModel("model", Pipeline.from_pretrained(model))
    engine, classes = served.pipeline.engine, served.pipeline.generator.config.classes
    sampling = served.pipeline.sampling
    requests = (SampleRequest(number % classes, number, sampling=sampling) for number in itertools.count())
    batches = synthesize(engine, served.decoder, requests, batch_size=batch_size)
    next(batches)  # sets itself up
    drawn, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        drawn += len(next(batches))
    return drawn / (time.perf_counter() - began)


@contextlib.contextmanager
def serving(model: Path, batch_size: int) -> Iterator[str]:
    """The address of a service of the model, in a process of its own, which is asked to stop at the end."""
    command = [sys.executable, "-m", "alitok", "serve", str(model), "--port", "0", "--batch-size", str(batch_size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("Serving"):
                raise SystemExit("The service did not start.")
            yield line.split()[3]
        finally:
            process.send_signal(signal.SIGTERM)
        if process.wait(120):
            raise SystemExit(f"The service ended with status {process.returncode}.")


def load(address: str, clients: int, seconds: float, classes: int) -> dict[str, Any]:
    """Each client asks for one picture after the other; pictures a second and the times of an answer."""
    times: list[float] = []
    stop, seeds, lock = time.perf_counter() + seconds, iter(range(1 << 40)), threading.Lock()

    def ask() -> None:
        client = Client(address)
        while time.perf_counter() < stop:
            with lock:
                seed = next(seeds)
            began = time.perf_counter()
            client.draw([seed % classes], seed=seed)
            with lock:
                times.append(time.perf_counter() - began)

    began = time.perf_counter()
    in_threads(ask, clients)
    passed = time.perf_counter() - began
    ordered = sorted(times)
    return {
        "clients": clients,
        "pictures": len(times),
        "images_per_second": len(times) / passed,
        "p50_seconds": statistics.median(ordered),
        "p95_seconds": ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))],
    }


def first_row(address: str) -> float:
    """Time to the first row over time to the finished picture, of one client."""
    shares = []
    for seed in range(_WATCHED):
        began, first = time.perf_counter(), None
        for told in Client(address).stream([0], seed=seed):
            if isinstance(told, DrawnRow) and first is None:
                first = time.perf_counter() - began
            if isinstance(told, Drawn) and first is not None:
                shares.append(first / (time.perf_counter() - began))
    return statistics.median(shares) if shares else 1.0


def in_threads(work: Callable[[], None], count: int) -> None:
    """Run `work` in so many threads, and wait for all."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Soak:
    """A mixture of requests, each with the statuses that are right for it.

    Args:
        address: of the service.
        facts: of its model, as /v1/models tells them.
    """

    def __init__(self, address: str, facts: dict[str, Any]) -> None:
        self.address, self.facts = address, facts
        self.sent: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")
        self.picture = buffer.getvalue()
        self.kinds: dict[str, tuple[Callable[[random.Random, Client], None], set[int]]] = {
            "draw": (self._draw, {200, 429}),
            "stream": (self._stream, {200, 429}),
            "stream left": (self._leave, {200, 429}),
            "encode and decode": (self._codes, {200, 429}),
            "reconstruct": (lambda rng, client: client.reconstruct(self.picture), {200, 429}),
            "complete": (self._complete, {200, 429}),
            "broken picture": (lambda rng, client: client.encode([self.picture[: rng.randrange(1, 9000)]]), {415, 422}),
            "no picture": (lambda rng, client: client.encode([rng.randbytes(500)]), {415, 422}),
            "unknown class": (lambda rng, client: client.draw(["no such class"]), {422}),
            "too many": (lambda rng, client: client.draw([0], count=1000), {422}),
            "wrong codes": (lambda rng, client: client.decode([[0]]), {422}),
            "too large": (lambda rng, client: client.encode([bytes(40 << 20)]), {413}),
            "no json": (self._no_json, {422}),
            "models": (lambda rng, client: client.models(), {200}),
        }

    def run(self, seconds: float, clients: int) -> dict[str, Any]:
        """Send requests for so long; counts, and the service's memory in MB."""
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
            memory.append(resident(self.address) / 1e6)
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
        """Send a request of some kind, and count what comes."""
        kind = rng.choices(list(self.kinds), [8, 4, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0.2, 1, 1])[0]
        ask, right = self.kinds[kind]
        status, said = 200, ""
        try:
            ask(rng, Client(self.address, timeout=150))
        except AnswerError as error:
            status, said = error.status, str(error)
        with self._lock:
            self.sent[kind] += 1
            if status == 0:
                self.lost.append(f"{kind}: {said}")
                return
            self.statuses[str(status)] += 1
            if status not in right:
                self.wrong.append(f"{kind}: {status} {said}")

    def _class(self, rng: random.Random) -> int:
        return rng.randrange(len(self.facts["classes"]))

    def _draw(self, rng: random.Random, client: Client) -> None:
        count = rng.randint(1, 4)
        settings = {"guidance_scale": rng.choice([1.0, 3.0]), "top_k": rng.choice([0, 10])}
        drawn = client.draw([self._class(rng)], count=count, seed=rng.randrange(1000), settings=settings)
        if len(drawn) != count:
            raise AnswerError(f"{len(drawn)} pictures for {count}")

    def _stream(self, rng: random.Random, client: Client) -> None:
        if not isinstance(list(client.stream([self._class(rng)], seed=rng.randrange(1000)))[-1], Drawn):
            raise AnswerError("a stream without its picture")

    def _leave(self, rng: random.Random, client: Client) -> None:
        stream = client.stream([self._class(rng)], count=4)
        for _ in range(rng.randrange(3)):
            next(stream)
        stream.close()

    def _codes(self, rng: random.Random, client: Client) -> None:
        client.decode(client.encode([self.picture]), rng.choice(self.facts["stages"]))

    def _complete(self, rng: random.Random, client: Client) -> None:
        client.draw([self._class(rng)], seed=1, keep=(self.picture, rng.randint(0, self.facts["grid"])))

    def _no_json(self, rng: random.Random, client: Client) -> None:
        host = self.address.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            text = base64.b64encode(rng.randbytes(30))
            connection.request("POST", "/v1/images", text, {"Content-Type": "application/json"})
            raise AnswerError("", connection.getresponse().status)
        except OSError as error:
            raise AnswerError(str(error)) from None
        finally:
            connection.close()


def resident(address: str) -> float:
    """Bytes of memory that the service holds."""
    with urlopen(f"{address}/metrics") as answer:
        found = re.search(r"^process_resident_memory_bytes (\S+)", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def machine() -> dict[str, Any]:
    """Where this was measured."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "commit": commit.stdout.strip(),
    }


def measure(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for."""
    result: dict[str, Any] = {"benchmark": "serve", "model": options.preset if options.model is None else "saved"}
    result |= {"batch_size": options.batch_size, "machine": machine()}
    if not options.soak:
        result["engine_images_per_second"] = engine_alone(model, options.batch_size, options.seconds)
        print(f"engine alone: {result['engine_images_per_second']:.3g} pictures/s", flush=True)
    with serving(model, options.batch_size) as address:
        facts = Client(address).models()[0]
        if options.soak:
            result["soak"] = Soak(address, facts).run(options.soak, options.clients[-1])
            return result
        result["first_row"] = first_row(address)
        print(f"first row after {result['first_row']:.3f} of a picture's time", flush=True)
        print("clients  pictures/s   p50 s   p95 s   ratio", flush=True)
        result["loads"] = []
        for clients in options.clients:
            found = load(address, clients, options.seconds, len(facts["classes"]))
            found["ratio"] = found["images_per_second"] / result["engine_images_per_second"]
            result["loads"].append(found)
            numbers = [found[name] for name in ("images_per_second", "p50_seconds", "p95_seconds", "ratio")]
            print(f"{clients:7}" + "".join(f"{number:>10.3g}" for number in numbers), flush=True)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a saved pair; else random weights of --preset")
    parser.add_argument("--preset", default="digits-generator", help="a name of `alitok models`")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="SECONDS", help="instead, mixed requests for so long"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = options.model or random_pair(options.preset, Path(directory) / options.preset)
        print(json.dumps(measure(model, options)))


if __name__ == "__main__":
    main()
