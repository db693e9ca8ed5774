"""How fast images are sampled here, beside the limits of this machine, measured in the same run.

A step reads all weights and the filled cache; its limit is the longer of its bytes at the machine's bandwidth and its
operations at the rate of a large matrix product.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import sys
import time
from collections.abc import Sequence

import torch
from rich.console import Console

from alitok.apps.bench.options import BenchOptions
from alitok.apps.bench.result import BenchResult, print_result
from alitok.apps.bench.roofline import PeakMemory, ReadProbe, bandwidth, device_name, matmul_tflops, wait
from alitok.core.device import DeviceName, choose_device
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.recipes.flops import sampling_flops, step_weight_bytes
from alitok.recipes.models import IMAGENET_CLASSES
from alitok.recipes.presets import GENERATORS, RECIPE_CLASSES, RECIPES, SAMPLING, TOKENIZERS
from alitok.sampling import SampleRequest, SamplingConfig, oracle
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine
from alitok.sampling.memory import cache_bytes, image_bytes, most_images
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.settings import EnginePrecision
from alitok.tokenizer import EncoderConfig, Tokenizer, TokenizerConfig

DEFAULT_PRESET = "alitok-256-B"
_TRIAL = 2


def print_bench(options: BenchOptions) -> None:
    """Measure, and print a table or one JSON object."""
    result = run_bench(options)
    if options.json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    else:
        print_result(result, Console(width=None if sys.stdout.isatty() else 120, highlight=False))


def run_bench(options: BenchOptions) -> BenchResult:
    """Measure a saved model, or a preset with random weights, whose values do not change the timings.

    Raises:
        AlitokError: unknown model, preset or kernel, or the batch does not fit into memory.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.model is not None:
        pipeline = Pipeline.from_pretrained(options.model, device=options.device, precision=options.precision)
        return bench(pipeline, options, options.model)
    name = full_name(options.preset or DEFAULT_PRESET)
    return bench(random_pipeline(*named_configs(name), options.device, options.precision), options, name)


def full_name(preset: str) -> str:
    """The name in `alitok models`; a single letter is a generator of `alitok-256`."""
    return f"alitok-256-{preset}" if preset in GENERATORS else preset


def named_configs(name: str) -> tuple[TokenizerConfig, GeneratorConfig, SamplingConfig]:
    """Configs of a named generator, its tokenizer and its sampling.

    Raises:
        AlitokError: unknown name; the message suggests near ones.
    """
    named = {
        f"{base}-{letter}": (tokenizer, size.config(tokenizer, IMAGENET_CLASSES), SAMPLING[letter])
        for base, tokenizer in TOKENIZERS.items()
        for letter, size in GENERATORS.items()
    }
    for recipe, classes in RECIPE_CLASSES.items():
        tokenizer, sampling = RECIPES[recipe].tokenizer, RECIPES[recipe].sampling
        named[f"{recipe}-generator"] = tokenizer, RECIPES[recipe].generator_size.config(tokenizer, classes), sampling
    if name not in named:
        near = difflib.get_close_matches(name, named, n=3, cutoff=0.3) or list(named)
        raise AlitokError(f"Unknown preset {name!r}; near: {', '.join(near)}.")
    return named[name]


def random_pipeline(
    tokenizer: TokenizerConfig,
    generator: GeneratorConfig,
    sampling: SamplingConfig,
    device: DeviceName = "auto",
    precision: EnginePrecision = "fp32",
) -> Pipeline:
    """A pipeline with random weights, without what sampling does not use: stage 1, and the encoder but one layer.

    Raises:
        AlitokError: the device is not available.
    """
    assert tokenizer.stage2 is not None
    encoder = tokenizer.encoder
    if isinstance(encoder, EncoderConfig):
        encoder = dataclasses.replace(encoder, layers=1)
    tokenizer = dataclasses.replace(tokenizer, encoder=encoder, stage1=None)
    place = choose_device(device)
    with place:
        models = Tokenizer(tokenizer), Generator(generator)
    torch.nn.init.normal_(models[1].output.weight, std=0.02)  # is initialized to zero, which would sample one code only
    return Pipeline(models[0].to(place).eval(), models[1].to(place).eval(), sampling, precision)


def bench(pipeline: Pipeline, options: BenchOptions, name: str) -> BenchResult:
    """Measure a pipeline on its device; `options` may name another one.

    Raises:
        AlitokError: the kernel does not exist, or the batch does not fit into memory.
    """
    engine, decoder, config = pipeline.engine, pipeline.decoder, pipeline.generator.config
    sampling, device, batch = _sampling(pipeline.sampling, options), engine.device, options.batch_size
    largest = _fitting(pipeline, batch, guided=sampling.guided)
    rate = matmul_tflops(device, options.precision, options.matmul_side)
    before = bandwidth(device, options.bandwidth_bytes)
    peak = PeakMemory(device)
    prepare = _prepare(engine, decoder, _requests(pipeline, sampling, batch, seed=0))
    probe = ReadProbe(device, options.bandwidth_bytes)
    rounds = [
        _time_batch(engine, decoder, _requests(pipeline, sampling, batch, seed), probe)
        for seed in range(1, options.rounds + 1)
    ]
    codes_seconds, decode_seconds, reads = zip(*rounds, strict=True)
    most = peak.read()
    after = bandwidth(device, options.bandwidth_bytes)
    slow = None
    if options.oracle:
        began = time.perf_counter()
        oracle.sample(pipeline.generator, _requests(pipeline, sampling, batch, 1)).cpu()
        slow = (time.perf_counter() - began) / batch
    rows, length = batch * (2 if sampling.guided else 1), config.sequence_length
    cache = cache_bytes(engine, batch, guided=sampling.guided)
    return BenchResult(
        preset=None if options.model is not None else name,
        model=options.model,
        image_size=pipeline.tokenizer.config.image_size,
        codes=length,
        batch=batch,
        guided=sampling.guided,
        soft_guidance=sampling.soft_guidance and sampling.guided,
        dtype=options.precision,
        device=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        kernels=engine.kernel_names,
        prepare_seconds=prepare,
        codes_seconds_each=codes_seconds,
        decode_seconds_each=decode_seconds,
        decode_precision=decoder.precision,
        weight_bytes=step_weight_bytes(config, options.precision, rows),
        cache_bytes_per_step=cache * (length + 1) / (2 * length),
        flops_per_step=rows * sampling_flops(config) / length,
        bandwidth_before=before,
        bandwidth_after=after,
        reads_between=tuple(itertools.chain(*reads)),
        matmul_tflops=rate,
        kv_cache_bytes=cache,
        peak_memory_bytes=most,
        largest_batch=largest,
        oracle_seconds_per_image=slow,
    )


def _sampling(default: SamplingConfig, options: BenchOptions) -> SamplingConfig:
    if not options.guidance:
        return dataclasses.replace(default, guidance_scale=1.0)
    if options.soft_guidance and not default.guided:
        raise AlitokError("This model is sampled without guidance, so soft guidance has no effect.")
    return dataclasses.replace(default, soft_guidance=True) if options.soft_guidance else default


def _requests(pipeline: Pipeline, sampling: SamplingConfig, batch: int, seed: int) -> list[SampleRequest]:
    classes = pipeline.generator.config.classes
    return [SampleRequest(index % classes, seed, index, sampling) for index in range(batch)]


def _fitting(pipeline: Pipeline, batch: int, *, guided: bool) -> int | None:
    """The largest batch that fits; None if the free memory is unknown; AlitokError if `batch` is larger."""
    engine, tokenizer = pipeline.engine, pipeline.tokenizer
    largest = most_images(engine, tokenizer, guided=guided)
    if largest is not None and batch > largest:
        one = image_bytes(engine, tokenizer, guided=guided)
        fits = f"the largest that fits is {largest:,}" if largest else "not even one image fits"
        raise AlitokError(
            f"A batch of {batch:,} takes {batch * one / 1e9:.1f} GB, and about {largest * one / 1e9:.1f} GB are free; "
            f"{fits}."
        )
    return largest


def _prepare(engine: Engine, decoder: PixelDecoder, requests: Sequence[SampleRequest]) -> float:
    """Seconds of what is done once, for which a GPU samples a whole batch; elsewhere the first codes suffice."""
    config, began = engine.generator.config, time.perf_counter()
    whole = engine.device.type == "cuda"
    if whole:
        engine.sample(requests)
    else:
        next(engine.stream(requests))
    shape = len(requests) if whole else min(len(requests), _TRIAL), config.sequence_length
    decoder(torch.randint(config.codebook_size, shape, device=engine.device))
    wait(engine.device)
    return time.perf_counter() - began


def _time_batch(
    engine: Engine, decoder: PixelDecoder, requests: Sequence[SampleRequest], probe: ReadProbe
) -> tuple[float, float, list[float]]:
    """Seconds for a batch's codes, and for its pixels until the host has them; GB/s between its rows."""
    parts, reads, seconds = [], [], 0.0
    began = time.perf_counter()
    for row in engine.stream(requests):
        wait(engine.device)
        seconds += time.perf_counter() - began
        parts.append(row)
        reads.append(probe())
        began = time.perf_counter()
    began = time.perf_counter()
    decoder(torch.cat(parts, dim=1)).cpu()
    return seconds, time.perf_counter() - began, reads
