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


@pytest.mark.slow
def test_train_step_on_small_recipes():
    options = ["plain", "bf16", "discriminator", "fsdp"]  # of all there are; each case takes its time to start
    small = ["--preset", "digits", "--batch-size", "4", "--steps", "1", "--warmup", "1", "--rounds", "1"]
    command = [sys.executable, BENCHMARKS / "train_step.py", *small, "--options", *options]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    cases = {case["case"]: case for case in result["cases"]}
    wanted = [f"{stage}.{option}" for stage in ("stage1", "stage2") for option in options]
    wanted += [f"generator.{option}" for option in options if option != "discriminator"]
    assert list(cases) == wanted, output
    for name, case in cases.items():
        stage, option = name.split(".")
        plain = cases[f"{stage}.plain"]
        assert case["gflops_per_image"] == plain["gflops_per_image"] == plain["gflops_per_image_counted"] > 0
        assert case["images_per_second"] == pytest.approx(4 / case["seconds"])
        assert case["speed_over_plain"] == pytest.approx(plain["seconds"] / case["seconds"])
        assert case["processes"] == (2 if option == "fsdp" else 1)
        assert case["precision"] == ("bf16" if option == "bf16" else "fp32")
        rate = 4 * case["gflops_per_image"] / case["seconds"] / 1e3
        assert case["mfu"] == pytest.approx(rate / case["peak_tflops_per_second"] / case["processes"])
        assert case["peak_memory_gb"] > 0.1
    assert cases["generator.plain"]["tokens_per_second"] == pytest.approx(
        20 * cases["generator.plain"]["images_per_second"]
    )
    assert result["machine"]["commit"]
