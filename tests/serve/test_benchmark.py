"""The benchmark of the service at a small size: it runs, and its last line is one JSON object."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve.py"


def measured(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


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
