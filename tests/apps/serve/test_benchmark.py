"""The service benchmark at a small size: it runs, prints one JSON object, and counts failures."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "serve.py"


def measured(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    found = importlib.util.spec_from_file_location("serve_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Answer:
    def __init__(self, status, body):
        self.status, self.read = status, lambda: json.dumps(body).encode()


def test_failed_responses_are_in_no_rate(benchmark, monkeypatch):
    """Of three requests one is rejected, one breaks off, and one succeeds."""

    class Connection:
        def __init__(self, *_, **__):
            self.seed = 0

        def request(self, method, path, body, headers):
            self.seed = json.loads(body)["seed"]
            if self.seed % 3 == 0:
                raise ConnectionResetError

        def getresponse(self):
            return Answer(429 if self.seed % 3 == 1 else 200, {"images": [{"seed": self.seed}]})

        def close(self):
            pass

    monkeypatch.setattr(benchmark.http.client, "HTTPConnection", Connection)
    counts = iter([(0.0, 0.0), (8.0, 2.0)])
    monkeypatch.setattr(benchmark, "batches", lambda address: next(counts))
    load = benchmark.Load("http://nowhere", 4)
    found = load.run(2, 0.6)
    assert found["failed"] == load.failed >= 2 * (len(load.answers) - 2) > 0
    assert found["images"] < len(load.answers)
    assert benchmark.faults({"loads": [found]}) == load.failed
    assert benchmark.faults({"soak": {"lost": 1, "wrong": 2}}) == 3
    assert benchmark.faults({"loads": [{"failed": 0}]}) == 0


def test_a_soak_counts_unexpected_errors_as_lost(benchmark):
    soak = benchmark.Soak("http://nowhere", {"classes": ["a"], "stages": ["stage2"], "grid": 3})

    def breaks(rng, client):
        raise ValueError("Not JSON.")

    soak.kinds = dict.fromkeys(soak.kinds, (breaks, {200}))
    soak.one(random.Random(0))
    assert sum(soak.sent.values()) == 1
    assert [lost.split(": ", 1)[1] for lost in soak.lost] == ["ValueError: Not JSON."]


@pytest.mark.slow
def test_load(model_directory):
    found = measured("--model", model_directory, "--seconds", 0.5, "--clients", 1, 3, "--batch-size", 4)
    assert (found["benchmark"], found["model"], found["batch_size"]) == ("serve", "saved", 4)
    assert 0 < found["first_row"] < 1
    assert [each["clients"] for each in found["loads"]] == [1, 3]
    for each in found["loads"]:
        assert each["images_per_second"] > 0
        assert each["failed"] == 0
        assert each["p50_seconds"] <= each["p95_seconds"]
        assert 1 <= each["mean_batch"] <= each["clients"]
        alone = found["engine_images_per_second"][str(each["clients"])]
        assert each["ratio"] == pytest.approx(each["images_per_second"] / alone)


@pytest.mark.slow
def test_soak(model_directory):
    found = measured("--model", model_directory, "--soak", 3, "--clients", 3)["soak"]
    assert found["sent"] == found["answered"] > 10
    assert (found["lost"], found["wrong"]) == (0, 0), found["examples"]
    assert found["memory_mb_settled"] > 50
