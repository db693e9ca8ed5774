"""The benchmark scripts at a small size: they run, and their last line is one JSON object."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_full_size_on_small_models():
    cases = ["digits-stage1", "digits-stage2", "digits-generator", "digits-stage1-forward"]
    command = [sys.executable, BENCHMARKS / "full_size.py", "--cases", *cases]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    results = {case["case"]: case for case in json.loads(output.splitlines()[-1])["cases"]}
    assert list(results) == cases
    for name, case in results.items():
        assert case["gflops_counted"] == case["gflops_formula"] > 0
        assert case["moved"] is (None if name.endswith("forward") else True)
    assert 0 < results["digits-stage2"]["trained_parameters"] < results["digits-stage2"]["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("crops", [1, 10])
def test_data_on_a_small_store_and_few_pictures(crops):
    pytest.importorskip("skimage")
    small = ["--sequences", "5000", "--batches", "5", "--pictures", "30", "--crops", str(crops)]
    command = [sys.executable, BENCHMARKS / "data.py", *small]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    assert (result["benchmark"], result["sequences"], result["crops"]) == ("data", 5000, crops)
    assert 2 < result["bytes_per_code"] < 2.1
    assert result["sequences_per_second"] >= result["sequences_per_second_whole_epoch"] > 0
    assert result["machine"]["threads"] == 1
    assert all(result["images"][kind]["share_of_plain"] > 0 for kind in ("centre", "random"))
    assert result["images"]["workers_images_per_second"] > 0
