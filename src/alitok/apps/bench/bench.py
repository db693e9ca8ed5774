"""How fast images are drawn here, beside what this machine can do at most, measured in the same run.

Enters: `BenchOptions`, or a pair of models. Leaves: a `BenchResult`. A step of the sampler reads all weights and the
filled part of the cache; the limit of a step is its bytes at the machine's bandwidth or its operations at the rate of
a large matrix product, whichever takes longer.
"""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Sequence

import torch

from alitok.apps.bench.result import BenchResult
from alitok.apps.bench.roofline import PeakMemory, ReadProbe, bandwidth, device_name, matmul_tflops, wait
from alitok.core.device import DeviceName, choose_device
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.recipes.flops import drawing_flops, step_weight_bytes
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


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Attributes:
        model: a saved pair, by its directory or its name on the hub; None = a preset with random weights.
        preset: a named generator as `alitok models` lists it, or B, L or XL; None = `alitok-256-B`.
        batch_size: images drawn at a time.
        precision: of the engine.
        rounds: how often everything is drawn; the median counts.
        threads: of the CPU; None = as many as PyTorch takes.
        device: where to draw.
        guidance: whether the model's own guidance is used.
        soft_guidance: whether it is SoftCFG.
        oracle: whether the slow sampler is timed as well, once.
        bandwidth_bytes: of the buffer on which bandwidth is measured; None = far more than caches hold.
        matmul_side: of the matrices whose product is timed; None = by the device.
    """

    model: str | None = None
    preset: str | None = None
    batch_size: int = 1
    precision: EnginePrecision = "fp32"
    rounds: int = 3
    threads: int | None = None
    device: DeviceName = "auto"
    guidance: bool = True
    soft_guidance: bool = False
    oracle: bool = False
    bandwidth_bytes: int | None = None
    matmul_side: int | None = None

    def __post_init__(self) -> None:
        """Refuse options that contradict one another or mean nothing."""
        if self.model is not None and self.preset is not None:
            raise AlitokError(f"Give a saved model ({self.model}) or a preset ({self.preset}), not both.")
        if self.soft_guidance and not self.guidance:
            raise AlitokError("Soft guidance is a kind of guidance; leave one of the two options out.")
        for name in ("batch_size", "rounds", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise AlitokError(f"{name} must be at least 1, not {getattr(self, name)}.")


def run_bench(options: BenchOptions) -> BenchResult:
    """Measure a saved model, or a preset with random weights: what they are changes no time.

    Raises:
        AlitokError: there is no such model, preset or kernel, or the batch does not fit into memory.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.model is not None:
        pipeline = Pipeline.from_pretrained(options.model, device=options.device, precision=options.precision)
        return bench(pipeline, options, options.model)
    name = full_name(options.preset or DEFAULT_PRESET)
    return bench(random_pipeline(*named_configs(name), options.device, options.precision), options, name)


def full_name(preset: str) -> str:
    """The name in `alitok models`; a letter alone is a generator for `alitok-256`."""
    return f"alitok-256-{preset}" if preset in GENERATORS else preset


def named_configs(name: str) -> tuple[TokenizerConfig, GeneratorConfig, SamplingConfig]:
    """What a named generator and its tokenizer look like, and how it is sampled.

    Raises:
        AlitokError: there is no such name; the nearest ones are offered.
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
        raise AlitokError(f"There is no preset {name!r}; near: {', '.join(near)}.")
    return named[name]


def random_pipeline(
    tokenizer: TokenizerConfig,
    generator: GeneratorConfig,
    sampling: SamplingConfig,
    device: DeviceName = "auto",
    precision: EnginePrecision = "fp32",
) -> Pipeline:
    """A pair with random weights, without stage 1 and all but a layer of the encoder: they draw no image.

    Raises:
        AlitokError: there is no such device.
    """
    assert tokenizer.stage2 is not None
    encoder = tokenizer.encoder
    if isinstance(encoder, EncoderConfig):
        encoder = dataclasses.replace(encoder, layers=1)
    tokenizer = dataclasses.replace(tokenizer, encoder=encoder, stage1=None)
    place = choose_device(device)
    with place:
        pair = Tokenizer(tokenizer), Generator(generator)
    torch.nn.init.normal_(pair[1].output.weight, std=0.02)  # starts at zero, which would draw all codes alike
    return Pipeline(pair[0].to(place).eval(), pair[1].to(place).eval(), sampling, precision)


def bench(pipeline: Pipeline, options: BenchOptions, name: str) -> BenchResult:
    """Measure a pair that is on its device; the options that say which pair is measured are not looked at.

    Raises:
        AlitokError: there is no such kernel, or the batch does not fit into memory.
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
        _draw(engine, decoder, _requests(pipeline, sampling, batch, seed), probe)
        for seed in range(1, options.rounds + 1)
    ]
    most = peak.read()
    after = bandwidth(device, options.bandwidth_bytes)
    slow = _oracle_seconds(pipeline.generator, _requests(pipeline, sampling, batch, 1)) if options.oracle else None
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
        codes_seconds_each=tuple(one.codes_seconds for one in rounds),
        decode_seconds_each=tuple(one.decode_seconds for one in rounds),
        decode_precision=decoder.precision,
        weight_bytes=step_weight_bytes(config, options.precision, rows),
        cache_bytes_per_step=cache * (length + 1) / (2 * length),
        flops_per_step=rows * drawing_flops(config) / length,
        bandwidth_before=before,
        bandwidth_after=after,
        reads_between=tuple(read for one in rounds for read in one.reads),
        matmul_tflops=rate,
        kv_cache_bytes=cache,
        peak_memory_bytes=most,
        largest_batch=largest,
        oracle_seconds_per_image=None if slow is None else slow / batch,
    )


def _sampling(default: SamplingConfig, options: BenchOptions) -> SamplingConfig:
    if not options.guidance:
        return dataclasses.replace(default, guidance_scale=1.0)
    if options.soft_guidance and not default.guided:
        raise AlitokError("This model is sampled without guidance, so there is none to be softened.")
    return dataclasses.replace(default, soft_guidance=True) if options.soft_guidance else default


def _requests(pipeline: Pipeline, sampling: SamplingConfig, batch: int, seed: int) -> list[SampleRequest]:
    classes = pipeline.generator.config.classes
    return [SampleRequest(index % classes, seed, index, sampling) for index in range(batch)]


def _fitting(pipeline: Pipeline, batch: int, *, guided: bool) -> int | None:
    """The largest batch that there is memory for; None where the system does not tell.

    Raises:
        AlitokError: `batch` is larger.
    """
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
    """Seconds of what is done once: kernels are chosen, graphs recorded, the decoder's precision is tried.

    A GPU draws a whole batch for it, elsewhere the first codes suffice.
    """
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


@dataclasses.dataclass(frozen=True)
class _Round:
    """One batch: seconds for its codes, and for its pixels until the host has them; bandwidths between its rows."""

    codes_seconds: float
    decode_seconds: float
    reads: tuple[float, ...]


def _draw(engine: Engine, decoder: PixelDecoder, requests: Sequence[SampleRequest], probe: ReadProbe) -> _Round:
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
    return _Round(seconds, time.perf_counter() - began, tuple(reads))


def _oracle_seconds(generator: Generator, requests: Sequence[SampleRequest]) -> float:
    began = time.perf_counter()
    oracle.sample(generator, requests).cpu()
    return time.perf_counter() - began
