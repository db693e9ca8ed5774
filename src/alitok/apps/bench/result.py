"""What a benchmark of drawing has measured, and what follows from it by arithmetic."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from alitok.apps.bench.roofline import Bandwidth
from alitok.core.device import Precision
from alitok.sampling.settings import EnginePrecision


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """One case: a model, a batch and a precision on a machine.

    Attributes:
        preset: the name of a model with random weights; None where a saved one was measured.
        model: where the saved one is.
        image_size: pixels a side.
        codes: T, of an image.
        batch: images drawn at a time.
        guided, soft_guidance: whether there is guidance, and whether it is SoftCFG.
        dtype: of the generator's weights in the engine.
        device, threads, torch: the machine, the threads of its CPU, and the version of PyTorch.
        kernels: those of the linear layers.
        prepare_seconds: before the first batch.
        codes_seconds_each, decode_seconds_each: of a batch, round by round.
        decode_precision: in which the pixels were computed.
        weight_bytes: of the model, read in each step.
        cache_bytes_per_step: keys and values read, on average over the sequence.
        flops_per_step: on average likewise.
        bandwidth_before, bandwidth_after: of the machine, before and after the codes were drawn.
        reads_between: GB/s of reading, measured again behind each row of codes, so that both saw the same machine.
        matmul_tflops: rate of a large matrix product in `dtype` or in float32, whichever is faster.
        kv_cache_bytes: memory of the cache.
        peak_memory_bytes: on a GPU of all tensors, else of the process, while images were drawn.
        largest_batch: the most images that fit into memory; None where the system does not tell.
        oracle_seconds_per_image: of the codes by the slow sampler, which keeps no cache, in float32; None = not timed.
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
        """Codes and pixels one after the other, though a GPU can draw both at once."""
        return (self.codes_seconds + self.decode_seconds) / self.batch

    @property
    def images_per_second(self) -> float:
        """Likewise."""
        return 1 / self.seconds_per_image

    @property
    def ms_per_step(self) -> float:
        """Of drawing one code of each image in the batch."""
        return self.codes_seconds / self.codes * 1e3

    @property
    def bytes_per_step(self) -> float:
        """That must be read: weights and the filled part of the cache."""
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
        """The machine's while the codes were drawn, the median: on a shared machine it drifts."""
        return statistics.median(self.reads_between)

    @property
    def copy_gb_s(self) -> float:
        """The machine's, the mean of before and after."""
        return (self.bandwidth_before.copy_gb_s + self.bandwidth_after.copy_gb_s) / 2

    @property
    def bandwidth_gb_s(self) -> float:
        """The one that limits a step: the larger of reading and copying."""
        return max(self.read_gb_s, self.copy_gb_s)

    @property
    def limit_ms_per_step(self) -> float:
        """The least that a step can take here."""
        return max(self.bytes_per_step / self.bandwidth_gb_s / 1e6, self.flops_per_step / self.matmul_tflops / 1e9)

    @property
    def share_of_bandwidth(self) -> float:
        """Of the machine's bandwidth that a step reaches; may pass 1 where a processor's cache holds the model."""
        return self.achieved_gb_s / self.bandwidth_gb_s

    @property
    def share_of_roofline(self) -> float:
        """Of the speed that the machine allows a step, by bandwidth and matrix products together."""
        return self.limit_ms_per_step / self.ms_per_step

    @property
    def speed_over_oracle(self) -> float | None:
        """How many times as fast as the slow sampler codes are drawn, at the same batch."""
        if self.oracle_seconds_per_image is None:
            return None
        return self.oracle_seconds_per_image * self.batch / self.codes_seconds

    def to_json(self) -> dict[str, Any]:
        """What was measured and what follows, by name; of the many readings their range."""
        follows = {name: getattr(self, name) for name, value in vars(type(self)).items() if isinstance(value, property)}
        measured = dataclasses.asdict(self)
        measured["reads_between"] = {"least": min(self.reads_between), "most": max(self.reads_between)}
        return {**measured, **follows}
