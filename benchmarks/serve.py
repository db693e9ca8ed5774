"""Throughput and latency of the service beside the engine alone, and a soak test with valid and invalid requests.

    python benchmarks/serve.py                                      # random weights, 1, 8 and 32 clients, 60 s each
    python benchmarks/serve.py --model runs/demo/model --seconds 60
    python benchmarks/serve.py --preset alitok-256-B --device cuda   # any name of `alitok models`
    python benchmarks/serve.py --soak 1800                          # half an hour of mixed requests

Without `--model` and `--preset` the model has the full geometry (256 px, 17 prefix codes and a grid of 16 x 16, 4096
entries) with networks of width 256 and 6 layers, which a CPU runs in seconds, and random weights.

First the engine alone generates full batches in this process, codes and pixels: for each number of clients, batches of
as many images as can be in one. Then `alitok serve` runs in its own process, and each client, a thread here, requests
one image after another, each of another class and seed. The clock starts when there are as many good responses as
clients and stops at the last of them; `failed` counts the others, which are in no rate, and `ratio` is the service's
images per second over the engine's. `first_row` is the time to the first row of a streamed image over the time to its
end, the median of twenty.

The soak test sends a seeded mixture: images, streams read to the end and abandoned ones, codes both ways, and invalid
requests. Each has its expected statuses; `lost` counts requests without a response, `wrong` those with another status.
Memory is the service's own, from /metrics: the maximum of the second quarter of the time, when all buffers are
allocated, beside the maximum of the last. The last line is one JSON object; the exit status is 1 if a request failed,
was lost or had a wrong status.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alitok.apps.serve.client import Client, GeneratedImage, GeneratedRow
from serve_soak import Soak, in_threads, metrics

if TYPE_CHECKING:
    from alitok.core.device import DeviceName
    from alitok.generator import GeneratorConfig
    from alitok.sampling import SamplingConfig
    from alitok.tokenizer import TokenizerConfig

MODEST = "modest-256"
_LONGEST_START = 600.0  # seconds until the first good responses
_PAUSE = 0.05  # seconds after a failed request, as the next one may fail at once
_WATCHED = 20  # timed streams, after one to warm up


def modest_256() -> tuple[TokenizerConfig, GeneratorConfig, SamplingConfig]:
    """The full geometry with small networks."""
    from alitok.recipes.presets import GeneratorSize
    from alitok.sampling import SamplingConfig
    from alitok.tokenizer import DecoderConfig, EncoderConfig, TokenizerConfig

    tokenizer = TokenizerConfig(
        prefix=17,
        encoder=EncoderConfig(width=256, layers=6, heads=4),
        stage1=DecoderConfig(width=256, layers=6, heads=4, causal=True, extra_tokens=1, prefix_head=True),
        stage2=DecoderConfig(width=256, layers=6, heads=4, extra_tokens=32),
    )
    generator = GeneratorSize(layers=6, width=256, heads=4).config(tokenizer, classes=1000)
    return tokenizer, generator, SamplingConfig(guidance_scale=3.0)


def random_model(preset: str, directory: Path) -> Path:
    """A saved model of a named size with random weights."""
    import torch

    from alitok.apps.bench.bench import named_configs
    from alitok.generator import Generator
    from alitok.sampling.pipeline import Pipeline
    from alitok.tokenizer import Tokenizer

    torch.manual_seed(0)
    tokenizer, generator, sampling = modest_256() if preset == MODEST else named_configs(preset)
    model = Generator(generator).eval()
    torch.nn.init.normal_(model.output.weight, std=0.02)  # zero would make all codes equally likely
    Pipeline(Tokenizer(tokenizer).eval(), model, sampling).save_pretrained(directory)
    return directory


def engine_alone(model: Path, batches: list[int], seconds: float, device: DeviceName) -> dict[int, float]:
    """Images per second by batch size, codes and pixels, without a service."""
    from alitok.apps.serve.model import ServedModel
    from alitok.sampling import SampleRequest
    from alitok.sampling.pipeline import Pipeline
    from alitok.sampling.synthesize import synthesize

    served = ServedModel("model", Pipeline.from_pretrained(model, device=device))
    engine, classes = served.pipeline.engine, served.pipeline.generator.config.classes
    found = {}
    for size in batches:
        sampling = served.pipeline.sampling
        requests = (SampleRequest(number % classes, number, sampling=sampling) for number in itertools.count())
        images = synthesize(engine, served.decoder, requests, batch_size=size)
        next(images)  # warm up
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            count += len(next(images))
        found[size] = count / (time.perf_counter() - began)
    return found


@contextlib.contextmanager
def serving(model: Path, options: argparse.Namespace) -> Iterator[str]:
    """The URL of a service of the model in its own process, which is stopped at the end."""
    command = [sys.executable, "-m", "alitok", "serve", str(model), "--port", "0", "--device", options.device]
    command += ["--batch-size", str(options.batch_size)]
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


class Load:
    """Clients that each request one image after another over a persistent connection."""

    def __init__(self, address: str, classes: int) -> None:
        self.address, self.classes = address, classes
        self.answers: list[tuple[float, float]] = []  # good ones: arrival time and duration
        self.failed = 0
        self._seeds, self._lock = iter(range(1 << 40)), threading.Lock()
        self._began: float | None = None  # when there were as many responses as clients

    def run(self, clients: int, seconds: float) -> dict[str, Any]:
        """Images per second, response times, and the size of the service's batches."""
        before = batches(self.address)
        in_threads(lambda: self._ask(clients, seconds), clients)
        images, count = (now - then for now, then in zip(batches(self.address), before, strict=True))
        if self._began is None:
            raise SystemExit(f"The service gave {len(self.answers)} good responses and {self.failed} others.")
        timed = [(came, took) for came, took in self.answers if came > self._began]
        ordered = sorted(took for _, took in timed)
        return {
            "clients": clients,
            "images": len(timed),
            "failed": self.failed,
            "images_per_second": len(timed) / (max(came for came, _ in timed) - self._began),
            "p50_seconds": statistics.median(ordered),
            "p95_seconds": ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))],
            "mean_batch": images / count,
        }

    def _ask(self, clients: int, seconds: float) -> None:
        until = time.perf_counter() + _LONGEST_START
        with contextlib.closing(http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=180)) as asked:
            while time.perf_counter() < (until if self._began is None else self._began + seconds):
                with self._lock:
                    seed = next(self._seeds)
                began = time.perf_counter()
                good = self._one(asked, seed)
                now = time.perf_counter()
                if not good:
                    with self._lock:
                        self.failed += 1
                    time.sleep(_PAUSE)
                    continue
                with self._lock:
                    self.answers.append((now, now - began))
                    if len(self.answers) >= clients and self._began is None:
                        self._began = now

    def _one(self, connection: http.client.HTTPConnection, seed: int) -> bool:
        """Request an image; whether it arrived."""
        body = json.dumps({"classes": [seed % self.classes], "seed": seed})
        try:
            connection.request("POST", "/v1/images", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
            return answer.status == 200 and found["images"][0]["seed"] == seed
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            connection.close()  # reopened by the next request
            return False


def batches(address: str) -> tuple[float, float]:
    """Total images and number of batches so far."""
    return metrics(address, "alitok_batch_images_sum", "alitok_batch_images_count")


def first_row(address: str) -> tuple[float, float]:
    """Median time to the first row, as a fraction of the time to the finished image and in seconds, of one client."""
    fractions, times = [], []
    for seed in range(-1, _WATCHED):
        began, first = time.perf_counter(), None
        for event in Client(address).stream([0], seed=max(0, seed)):
            if isinstance(event, GeneratedRow) and first is None:
                first = time.perf_counter() - began
            if isinstance(event, GeneratedImage) and first is not None and seed >= 0:
                times.append(first)
                fractions.append(first / (time.perf_counter() - began))
    return (statistics.median(fractions), statistics.median(times)) if fractions else (1.0, 0.0)


def machine() -> dict[str, Any]:
    """Versions and hardware."""
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
    """All requested measurements."""
    result: dict[str, Any] = {"benchmark": "serve", "model": options.preset if options.model is None else "saved"}
    result |= {"batch_size": options.batch_size, "seconds": options.seconds, "machine": machine()}
    alone = {}
    if not options.soak:
        sizes = sorted({min(clients, options.batch_size) for clients in options.clients})
        alone = engine_alone(model, sizes, options.seconds, options.device)
        result["engine_images_per_second"] = alone
        print("engine alone:", {size: round(found, 3) for size, found in alone.items()}, flush=True)
    with serving(model, options) as address:
        info = Client(address).models()[0]
        result["codes"] = info["codes"]
        if options.soak:
            result["soak"] = Soak(address, info).run(options.soak, options.clients[-1])
            return result
        result["first_row"], result["first_row_seconds"] = first_row(address)
        print(f"first row after {result['first_row']:.3f} of an image's time", flush=True)
        print("clients  images/s   p50 s   p95 s   ratio   batch", flush=True)
        result["loads"] = []
        for clients in options.clients:
            found = Load(address, len(info["classes"])).run(clients, options.seconds)
            found["ratio"] = found["images_per_second"] / alone[min(clients, options.batch_size)]
            result["loads"].append(found)
            shown = [found[name] for name in ("images_per_second", "p50_seconds", "p95_seconds", "ratio", "mean_batch")]
            print(f"{clients:7}" + "".join(f"{number:>9.3g}" for number in shown), flush=True)
    return result


def faults(result: dict[str, Any]) -> int:
    """Requests that failed, were lost, or had a wrong status."""
    soak = result.get("soak", {"lost": 0, "wrong": 0})
    return soak["lost"] + soak["wrong"] + sum(load["failed"] for load in result.get("loads", []))


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a saved model; default: random weights of --preset")
    parser.add_argument("--preset", default=MODEST, help=f"{MODEST}, or a name of `alitok models`")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "mps", "cpu"])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="run the soak test instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = options.model or random_model(options.preset, Path(directory) / options.preset)
        result = measure(model, options)
    print(json.dumps(result))
    return 1 if faults(result) else 0


if __name__ == "__main__":
    sys.exit(main())
