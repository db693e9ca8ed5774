import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alitok.apps.bench import bench as module
from alitok.apps.bench import roofline
from alitok.apps.bench.bench import bench, named_configs, random_pipeline, run_bench
from alitok.apps.bench.options import BenchOptions
from alitok.apps.bench.result import BenchResult
from alitok.apps.bench.roofline import Bandwidth
from alitok.cli import app
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.recipes.flops import sampling_flops, step_weight_bytes
from alitok.recipes.models import model_rows
from alitok.recipes.presets import SAMPLING
from alitok.sampling import SampleRequest, SamplingConfig, memory
from alitok.sampling.engine import Engine
from alitok.sampling.memory import image_bytes

MIB = 1 << 20
GENERATOR = GeneratorConfig(grid=3, prefix=3, codebook_size=24, classes=5, layers=2, width=32, heads=2)
GUIDED = SamplingConfig(guidance_scale=3.0)
QUICK = {"device": "cpu", "bandwidth_bytes": 4 * MIB, "matmul_side": 32}


@pytest.fixture
def pipeline(make_pipeline):
    tokenizer = make_pipeline(image_size=12, patch_size=4, codebook_size=24).tokenizer
    return random_pipeline(tokenizer.config, GENERATOR, GUIDED, "cpu")


@pytest.fixture
def saved(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pair")
    return tmp_path / "pair"


@pytest.mark.parametrize("size", [GENERATOR, GeneratorConfig(layers=1, width=48, heads=3)])
def test_weight_bytes_are_those_of_the_parameters(size):
    generator = Generator(size)
    rows = 6
    counted = {"fp32": 0, "bf16": 0, "int8": 0}
    for layer in generator.modules():
        if isinstance(layer, nn.Linear):
            outputs = layer.weight.shape[0]
            biases = 0 if layer.bias is None else layer.bias.numel()
            counted["fp32"] += 4 * (layer.weight.numel() + biases)
            counted["bf16"] += 2 * (layer.weight.numel() + biases)
            counted["int8"] += layer.weight.numel() + 4 * outputs + 4 * biases
        elif isinstance(layer, nn.RMSNorm):
            counted = {name: value + 4 * layer.weight.numel() for name, value in counted.items()}
    for precision, count in counted.items():
        assert step_weight_bytes(size, precision, rows) == count + 4 * rows * size.width
    everything = sum(parameter.nbytes for parameter in generator.parameters()) - generator.embeddings.weight.nbytes
    assert counted["fp32"] == everything


@pytest.mark.parametrize("guided", [True, False])
def test_operations_are_those_that_the_engine_does(pipeline, guided):
    sampling = GUIDED if guided else SamplingConfig()
    requests = [SampleRequest(index, 0, index, sampling) for index in range(3)]
    engine, counter = Engine(pipeline.generator, kernel="plain"), FlopCounterMode(display=False)
    with counter:
        engine.sample(requests)
    rows = 6 if guided else 3
    assert counter.get_total_flops() == rows * sampling_flops(GENERATOR)


def result(**changes):
    fields = {
        "preset": "alitok-256-B",
        "model": None,
        "image_size": 256,
        "codes": 200,
        "batch": 4,
        "guided": True,
        "soft_guidance": False,
        "dtype": "fp32",
        "device": "cpu",
        "threads": 2,
        "torch": "2",
        "kernels": {"qkv": "plain"},
        "prepare_seconds": 1.0,
        "codes_seconds_each": (9.0, 2.0, 1.0),
        "decode_seconds_each": (0.5, 7.0, 0.4),
        "decode_precision": "fp32",
        "weight_bytes": 40_000_000,
        "cache_bytes_per_step": 10_000_000.0,
        "flops_per_step": 2e9,
        "bandwidth_before": Bandwidth(8.0, 7.0),
        "bandwidth_after": Bandwidth(12.0, 9.0),
        "reads_between": (10.0, 9.0, 30.0),
        "matmul_tflops": 1.0,
        "kv_cache_bytes": 1,
        "peak_memory_bytes": 1,
        "largest_batch": None,
    }
    return BenchResult(**{**fields, **changes})


def test_what_follows_from_the_measurements():
    found = result(oracle_seconds_per_image=5.0).to_json()
    assert (found["codes_seconds"], found["decode_seconds"]) == (2.0, 0.5)
    assert found["seconds_per_image"] == pytest.approx(2.5 / 4)
    assert found["images_per_second"] == pytest.approx(1.6)
    assert found["ms_per_step"] == pytest.approx(10.0)
    assert found["bytes_per_step"] == 50_000_000
    assert found["achieved_gb_s"] == pytest.approx(5.0)  # 50 MB in 10 ms
    assert (found["read_gb_s"], found["copy_gb_s"], found["bandwidth_gb_s"]) == (10.0, 8.0, 10.0)
    assert found["bandwidth_fraction"] == pytest.approx(0.5)
    assert found["limit_ms_per_step"] == pytest.approx(5.0)  # by bytes; by operations 2
    assert found["roofline_fraction"] == pytest.approx(0.5)
    assert found["achieved_tflops"] == pytest.approx(0.2)
    assert found["speed_over_oracle"] == pytest.approx(10.0)  # 20 s to 2 s for the four images
    assert found["bandwidth_before"] == {"read_gb_s": 8.0, "copy_gb_s": 7.0}
    slow = result(matmul_tflops=0.25)
    assert slow.limit_ms_per_step == pytest.approx(8.0)  # by operations
    assert slow.bandwidth_fraction == pytest.approx(0.5)
    assert slow.roofline_fraction == pytest.approx(0.8)
    assert slow.speed_over_oracle is None
    copying = result(bandwidth_before=Bandwidth(1.0, 20.0), bandwidth_after=Bandwidth(1.0, 20.0), reads_between=(1.0,))
    assert copying.bandwidth_fraction == pytest.approx(0.25)


def test_a_saved_pair_is_measured(saved):
    found = run_bench(BenchOptions(model=str(saved), batch_size=3, rounds=2, oracle=True, **QUICK)).to_json()
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, allow_nan=False))
    asked = {"seconds_per_image", "images_per_second", "ms_per_step", "bandwidth_fraction", "preset", "batch", "dtype"}
    assert asked <= set(found)
    assert (found["model"], found["preset"], found["batch"]) == (str(saved), None, 3)
    assert (found["codes"], found["image_size"], found["guided"]) == (12, 12, True)
    assert len(found["codes_seconds_each"]) == len(found["decode_seconds_each"]) == 2
    assert found["weight_bytes"] == step_weight_bytes(GENERATOR, "fp32", 6)
    assert found["kv_cache_bytes"] == 2 * 2 * 6 * 12 * 32 * 4  # keys and values, layers, rows, codes, width, bytes
    filled = sum(range(1, 13)) / 12
    assert found["cache_bytes_per_step"] == pytest.approx(2 * 2 * 6 * filled * 32 * 4)
    assert found["flops_per_step"] == pytest.approx(6 * sampling_flops(GENERATOR) / 12)
    assert found["kernels"]
    assert found["decode_precision"] in ("fp32", "bf16")
    assert found["peak_memory_bytes"] > MIB
    assert found["oracle_seconds_per_image"] > 0
    assert found["speed_over_oracle"] > 0


def test_guidance_is_the_models_own_none_or_soft(pipeline):
    own = bench(pipeline, BenchOptions(**QUICK, rounds=1), "name")
    none = bench(pipeline, BenchOptions(**QUICK, rounds=1, guidance=False), "name")
    soft = bench(pipeline, BenchOptions(**QUICK, rounds=1, soft_guidance=True), "name")
    assert [found.guided for found in (own, none, soft)] == [True, False, True]
    assert [found.soft_guidance for found in (own, none, soft)] == [False, False, True]
    assert own.kv_cache_bytes == 2 * none.kv_cache_bytes
    assert own.flops_per_step == 2 * none.flops_per_step
    assert own.preset == "name"


def test_whole_batches_are_timed(pipeline, monkeypatch):
    """Every round draws its images whole, by other seeds, in the batch and with the guidance asked for."""
    drawn, whole, stream = [], [], Engine.stream

    def watched(self, requests):
        drawn.append(requests)
        rows = 0
        for codes in stream(self, requests):
            rows += 1
            yield codes
        whole.append(rows)

    monkeypatch.setattr(Engine, "stream", watched)
    bench(pipeline, BenchOptions(**QUICK, batch_size=7, rounds=3), "name")
    drawn = drawn[1:]  # the first one warms up and is left after a row
    assert [[request.seed for request in requests] for requests in drawn] == [[seed] * 7 for seed in (1, 2, 3)]
    assert whole[-3:] == [whole[-1]] * 3
    assert {request.sampling for requests in drawn for request in requests} == {GUIDED}
    assert [request.label for request in drawn[0]] == [0, 1, 2, 3, 4, 0, 1]


def test_random_weights_sample_different_codes(pipeline):
    codes = pipeline.engine.sample([SampleRequest(1, 0, 0, SamplingConfig(temperature=0.0))])
    assert len(codes.unique()) > 1
    assert pipeline.tokenizer.stage1 is None
    assert pipeline.decoder(codes).shape == (1, 3, 12, 12)


def test_every_named_generator_has_configs(monkeypatch):
    names = [row.name for row in model_rows() if row.kind == "generator"]
    for name in names:
        tokenizer, generator, sampling = named_configs(name)
        assert tokenizer.sequence_length == generator.sequence_length
        assert sampling.guided
    assert named_configs("alitok-256-XL")[2] == SAMPLING["XL"]
    assert named_configs("digits-generator")[1].classes == 10
    assert named_configs(module.full_name("L")) == named_configs("alitok-256-L")
    with pytest.raises(AlitokError, match=r"Unknown preset 'alitok-256-X'; near: .*alitok-256-XL"):
        run_bench(BenchOptions(preset="alitok-256-X"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "a", "preset": "B"}, "not both"),
        ({"guidance": False, "soft_guidance": True}, "leave one of the two"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"threads": -1}, "threads must be at least 1"),
    ],
)
def test_options_without_meaning_are_rejected(options, sentence):
    with pytest.raises(AlitokError, match=sentence):
        BenchOptions(**options)


def test_softening_no_guidance_is_rejected(pipeline):
    plain = replace(pipeline, sampling=SamplingConfig())
    with pytest.raises(AlitokError, match="soft guidance has no effect"):
        bench(plain, BenchOptions(**QUICK, soft_guidance=True), "name")


def test_a_batch_that_does_not_fit_is_rejected_with_the_largest_that_does(pipeline, monkeypatch):
    one = image_bytes(pipeline.engine, pipeline.tokenizer, guided=True)
    weights = sum(parameter.nbytes for parameter in pipeline.generator.parameters())
    monkeypatch.setattr(memory, "free_memory", lambda device: int((2 * weights + 5.5 * one) / 0.95))
    assert bench(pipeline, BenchOptions(**QUICK, batch_size=5, rounds=1), "name").largest_batch == 5
    with pytest.raises(AlitokError, match=r"A batch of 6 takes .* the largest that fits is 5"):
        bench(pipeline, BenchOptions(**QUICK, batch_size=6), "name")
    monkeypatch.setattr(memory, "free_memory", lambda device: weights)
    with pytest.raises(AlitokError, match="not even one image fits"):
        bench(pipeline, BenchOptions(**QUICK), "name")
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert bench(pipeline, BenchOptions(**QUICK, rounds=1), "name").largest_batch is None


def test_threads_are_set(saved):
    before = torch.get_num_threads()
    try:
        found = run_bench(BenchOptions(model=str(saved), rounds=1, threads=2, **QUICK))
        assert found.threads == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(roofline, "_BUFFER", 4 * MIB)
    monkeypatch.setattr(roofline, "_CPU_SIDE", 32)


def test_the_command_prints_one_object_or_a_table(saved, small_machine, capsys):
    def run(*words):
        app(["bench", str(saved), "--rounds", "1", "--device", "cpu", *words], result_action="return_value")

    run("--json")
    assert json.loads(capsys.readouterr().out)["batch"] == 1
    run("--batch-size", "2", "--no-guidance", "--oracle")
    table = capsys.readouterr().out
    # The title is broken where the model's path is long.
    assert "12 px, 12 codes, no guidance, batch 2, fp32" in " ".join(table.split())
    for row in ("seconds per image", "step", "memory read", "largest batch that fits", "speedup over it"):
        assert any(line.startswith(row) for line in table.splitlines()), table


def test_a_bench_loads_neither_scikit_learn_nor_data_sources(saved):
    code = f"""
import sys
from alitok.cli import app
words = ["bench", {str(saved)!r}, "--rounds", "1", "--device", "cpu"]
app.parse_args(words)
assert "torch" not in sys.modules
from alitok.apps.bench import roofline
roofline._BUFFER, roofline._CPU_SIDE = 1 << 22, 32
app(words, result_action="return_value")
print([name for name in sys.modules if name.startswith(("sklearn", "skimage", "alitok.data.sources", "alitok.run"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
