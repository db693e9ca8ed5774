"""The result of a sampling benchmark, and what follows from it by arithmetic."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from rich.console import Console

from alitok.apps.bench.roofline import Bandwidth
from alitok.core.choices import Precision
from alitok.core.console import print_table
from alitok.sampling.settings import EnginePrecision


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """One case: a model, a batch and a precision on a machine.

    Attributes:
        preset, model: a model with random weights, or a saved one; the other is None.
        image_size: px.
        dtype: of the generator's weights in the engine.
        prepare_seconds: before the first batch.
        codes_seconds_each, decode_seconds_each: of a batch, round by round.
        cache_bytes_per_step, flops_per_step: averaged over the sequence.
        bandwidth_before, bandwidth_after: of the machine, before and after sampling.
        reads_between: read GB/s after each row of codes, so that both are measured under the same load.
        matmul_tflops: rate of a large matrix product in `dtype` or in float32, whichever is faster.
        peak_memory_bytes: while sampling; on a GPU of all tensors, else of the process.
        largest_batch: the largest that fits into memory; None = unknown.
        oracle_seconds_per_image: of the codes by the slow sampler without a cache, in float32; None = not timed.
    """

    preset: str | None
    model: str | None
    image_size: int
    codes: int
    batch: int
    guided: bool
    soft_guidance: bool
    dtype: EnginePrecision
    device: str
    threads: int
    torch: str
    kernels: dict[str, str]
    prepare_seconds: float
    codes_seconds_each: tuple[float, ...]
    decode_seconds_each: tuple[float, ...]
    decode_precision: Precision
    weight_bytes: int
    cache_bytes_per_step: float
    flops_per_step: float
    bandwidth_before: Bandwidth
    bandwidth_after: Bandwidth
    reads_between: tuple[float, ...]
    matmul_tflops: float
    kv_cache_bytes: int
    peak_memory_bytes: int
    largest_batch: int | None
    oracle_seconds_per_image: float | None = None

    @property
    def codes_seconds(self) -> float:
        """Of a batch, the median."""
        return statistics.median(self.codes_seconds_each)

    @property
    def decode_seconds(self) -> float:
        """Of a batch, the median."""
        return statistics.median(self.decode_seconds_each)

    @property
    def seconds_per_image(self) -> float:
        """Codes and pixels in sequence, though a GPU can overlap them."""
        return (self.codes_seconds + self.decode_seconds) / self.batch

    @property
    def images_per_second(self) -> float:
        """Inverse of `seconds_per_image`."""
        return 1 / self.seconds_per_image

    @property
    def ms_per_step(self) -> float:
        """For one code of each image in the batch."""
        return self.codes_seconds / self.codes * 1e3

    @property
    def bytes_per_step(self) -> float:
        """Bytes read: weights and the filled part of the cache."""
        return self.weight_bytes + self.cache_bytes_per_step

    @property
    def achieved_gb_s(self) -> float:
        """Bytes per second of a step, in 1e9."""
        return self.bytes_per_step / self.ms_per_step / 1e6

    @property
    def achieved_tflops(self) -> float:
        """Operations per second of a step, in 1e12."""
        return self.flops_per_step / self.ms_per_step / 1e9

    @property
    def read_gb_s(self) -> float:
        """Of the machine during sampling, the median; on a shared machine it drifts."""
        return statistics.median(self.reads_between)

    @property
    def copy_gb_s(self) -> float:
        """Of the machine, the mean of before and after."""
        return (self.bandwidth_before.copy_gb_s + self.bandwidth_after.copy_gb_s) / 2

    @property
    def bandwidth_gb_s(self) -> float:
        """The limit of a step: the larger of reading and copying."""
        return max(self.read_gb_s, self.copy_gb_s)

    @property
    def limit_ms_per_step(self) -> float:
        """Of the fastest possible step on this machine."""
        return max(self.bytes_per_step / self.bandwidth_gb_s / 1e6, self.flops_per_step / self.matmul_tflops / 1e9)

    @property
    def bandwidth_fraction(self) -> float:
        """Achieved fraction of the machine's bandwidth; may exceed 1 if a CPU cache holds the model."""
        return self.achieved_gb_s / self.bandwidth_gb_s

    @property
    def roofline_fraction(self) -> float:
        """Achieved fraction of the speed that bandwidth and matrix products allow."""
        return self.limit_ms_per_step / self.ms_per_step

    @property
    def speed_over_oracle(self) -> float | None:
        """Speedup over the slow sampler at the same batch size."""
        if self.oracle_seconds_per_image is None:
            return None
        return self.oracle_seconds_per_image * self.batch / self.codes_seconds

    def to_json(self) -> dict[str, Any]:
        """All fields and properties by name; `reads_between` as its range."""
        follows = {name: getattr(self, name) for name, value in vars(type(self)).items() if isinstance(value, property)}
        measured = dataclasses.asdict(self)
        measured["reads_between"] = {"least": min(self.reads_between), "most": max(self.reads_between)}
        return {**measured, **follows}


def print_result(result: BenchResult, console: Console) -> None:
    """Print a heading and a table: measured, the machine's limit, and the fraction of it that is reached."""
    guidance = ("soft guidance" if result.soft_guidance else "guidance") if result.guided else "no guidance"
    console.print(
        f"[bold]{result.preset or result.model}[/bold]: {result.image_size} px, {result.codes} codes, {guidance}, "
        f"batch {result.batch}, {result.dtype} ({', '.join(sorted(set(result.kernels.values())))}), "
        f"pixels in {result.decode_precision}"
    )
    console.print(f"{result.device}, threads: {result.threads}, PyTorch {result.torch}\n")
    print_table(console, ("", "measured", "limit of this machine", "fraction"), _rows(result))


def _rows(result: BenchResult) -> list[tuple[str, ...]]:
    limit = f"{result.limit_ms_per_step:.2f} ms"
    rows: list[tuple[str, ...]] = [
        ("seconds per image", f"{result.seconds_per_image:.3f}"),
        ("images per second", f"{result.images_per_second:.3f}"),
        ("codes of a batch", f"{result.codes_seconds:.3f} s"),
        ("pixels of a batch", f"{result.decode_seconds:.3f} s"),
        ("before the first batch", f"{result.prepare_seconds:.1f} s"),
        ("step", f"{result.ms_per_step:.2f} ms", limit, f"{result.roofline_fraction:.0%}"),
        (
            f"memory read, {result.bytes_per_step / 1e9:.3g} GB per step",
            f"{result.achieved_gb_s:.1f} GB/s",
            f"{result.bandwidth_gb_s:.1f} GB/s",
            f"{result.bandwidth_fraction:.0%}",
        ),
        (
            f"products, {result.flops_per_step / 1e9:.3g} GFLOP per step",
            f"{result.achieved_tflops:.3g} TFLOP/s",
            f"{result.matmul_tflops:.3g} TFLOP/s",
            f"{result.achieved_tflops / result.matmul_tflops:.0%}",
        ),
        ("key-value cache", f"{result.kv_cache_bytes / 1e9:.2f} GB"),
        ("peak memory", f"{result.peak_memory_bytes / 1e9:.2f} GB"),
    ]
    if result.largest_batch is not None:
        rows.append(("largest batch that fits", f"{result.largest_batch:,}"))
    if result.oracle_seconds_per_image is not None:
        rows.append(("slow sampler, codes of an image", f"{result.oracle_seconds_per_image:.2f} s"))
        rows.append(("speedup over it", f"{result.speed_over_oracle:.1f}"))
    return rows
