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
