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
def test_data_on_a_small_store_and_few_images(crops):
    pytest.importorskip("skimage")
    small = ["--sequences", "5000", "--batches", "5", "--images", "30", "--crops", str(crops)]
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
    # Of all there are; each case takes its time to start.
    wanted = [
        "stage1.plain",
        "stage1.discriminator",
        "stage1.fsdp",
        "stage2.plain",
        "generator.plain",
        "generator.bf16",
    ]
    small = ["--preset", "digits", "--batch-size", "4", "--steps", "1", "--warmup", "1", "--rounds", "1"]
    command = [sys.executable, BENCHMARKS / "train_step.py", *small, "--cases", *wanted]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    cases = {case["case"]: case for case in result["cases"]}
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


@pytest.mark.slow
def test_generation_on_a_small_generator(tmp_path):
    pytest.importorskip("matplotlib")
    tiny = ["--buffer-mib", "4", "--side", "32", "--images", "2", "--rounds", "1", "--repeats", "2"]
    cases = ["--batches", "2", "10000000", "--grids", "2", "--growing-batches", "3", "--precisions", "fp32", "--oracle"]
    command = [sys.executable, BENCHMARKS / "generation.py"]
    made = subprocess.run(
        [*command, "--presets", "digits-generator", *cases, *tiny], capture_output=True, text=True, check=True
    ).stdout
    found = {case["case"].replace(" digits-generator", ""): case for case in json.loads(made.splitlines()[-1])["cases"]}
    wanted = ["matrix fp32 batch 2", "matrix fp32 batch 10000000", "growth fp32 grid 2", "batches fp32 batch 3"]
    assert list(found) == [*wanted, "soft fp32 batch 1", "exactness"], made
    drawn, refused, short, batch, soft, exact = found.values()
    assert soft["ratio"] == soft["soft"] / soft["plain"] > 0
    assert (drawn["batch"], drawn["codes"], short["codes"], batch["batch"]) == (2, 20, 4, 3)
    assert drawn["speed_over_oracle"] == pytest.approx(drawn["oracle_seconds_per_image"] * 2 / drawn["codes_seconds"])
    assert short["oracle_seconds_per_image"] is None
    assert len(drawn["codes_seconds_each"]) == 2
    assert "the largest that fits is" in refused["refused"]
    assert exact["precisions"]["fp32"]["logit_error"] < 1e-4 < exact["precisions"]["bf16"]["logit_error"] < 0.05
    assert all(0.8 < kind["same_guided_codes"] <= 1 for kind in exact["precisions"].values())

    (tmp_path / "results.json").write_text(made)
    again = [*command, "--draw", tmp_path / "results.json", "--plot", tmp_path / "growth.svg"]
    tables = subprocess.run(again, capture_output=True, text=True, check=True).stdout
    assert tables.splitlines()[-1] == made.splitlines()[-1]
    assert tables[tables.index("\nmatrix\n") :] == made[made.index("\nmatrix\n") :]
    assert [line.count("|") for line in tables.splitlines() if line.startswith("| digits-generator | 2 |")] == [11]
    assert "images per batch" in (tmp_path / "growth.svg").read_text().replace("<!-- ", "")


@pytest.mark.slow
def test_evaluation_of_few_images():
    pytest.importorskip("torch_fidelity")
    small = ["--count", "600", "--reference", "300", "--images", "2"]
    command = [sys.executable, BENCHMARKS / "evaluation.py", *small]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    assert (result["benchmark"], result["count"], result["reference"]) == ("evaluation", 600, 300)
    assert set(result["seconds"]) == {"write", "gather", "compare"}
    assert 0 < result["network_fraction"] < 1
    assert result["distance"] > 0
    assert 20_000 * 600 < result["bytes_on_disk"] < 21_000 * 600


@pytest.mark.slow
def test_ablation_of_two_small_arms(tmp_path):
    small = ["tokenizer_steps=4", "generator_steps=4", "samples=20", "width=16", "layers=1", "heads=2"]
    command = [sys.executable, BENCHMARKS / "ablation.py", "--data", "digits", "--arms", "A", "B"]
    output = subprocess.run(
        [*command, "--codebook-sizes", "32", "--parallel", "2", "--out", tmp_path / "out", "--set", *small],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    result = json.loads(output.splitlines()[-1])
    assert (result["benchmark"], result["cells"], result["seeds"]) == ("ablation", 4, 1)
    assert set(result["table"]) == {"A", "B"}
    # Four steps may leave codes that no patch changes (0, or null): which ones depends on the processor.
    assert all(0 <= (result["table"][arm]["influence_future"] or 0) <= 1 for arm in "AB")
    assert set(result["bits_at_equal_psnr"]) == {"A to B"}


def test_a_plan_beside_what_was_measured(tmp_path):
    case = {
        "case": "stage2.activation_checkpointing",
        "batch_size": 4,
        "processes": 1,
        "precision": "fp32",
        "device": "x86_64",
    }
    measured = {"preset": "digits", "cases": [case | {"peak_memory_gb": 1.0}, case | {"processes": 2}]}
    results = tmp_path / "results.json"
    results.write_text(json.dumps(measured))
    command = [sys.executable, BENCHMARKS / "plan.py", results]
    # Started by a shell: a direct child of a large test process inherits its peak memory.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (found,) = json.loads(output.splitlines()[-1])["cases"]
    assert found["memory_ratio"] == pytest.approx(found["planned_gb"])
    assert 0.1 < found["planned_gb"] < 2  # mostly Python and PyTorch
