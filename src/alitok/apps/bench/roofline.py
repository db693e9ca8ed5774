"""The measured limits of this machine: memory bandwidth, the rate of matrix products, and peak memory.

A GB is 1e9 bytes, a multiply-add two operations.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from alitok.core.device import free_memory
from alitok.core.system import peak_memory
from alitok.sampling.kernels import Kernels, Weight
from alitok.sampling.settings import EnginePrecision

_BUFFER = 1 << 30  # bytes that are read repeatedly; far more than any cache holds
_SHORT = 1 << 28
_COLUMNS = 1024
_CPU_SIDE, _GPU_SIDE = 1024, 8192  # of the matrices that are multiplied
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 20
_PATIENCE = 0.4  # seconds in which there may be more than the fewest rounds
_QUEUED = 10  # calls that a GPU is given at a time
_PROC = Path("/proc")


@dataclass(frozen=True)
class Bandwidth:
    """Memory bandwidth in GB/s: of reading a large buffer once, and of copying (bytes read and written count)."""

    read_gb_s: float
    copy_gb_s: float


def bandwidth(device: torch.device, size: int | None = None) -> Bandwidth:
    """The best of several passes over a buffer, which is summed or multiplied by a vector, whichever is faster.

    `size` is in bytes; None = 1 GiB, or a quarter of what is free where that is less.
    """
    free = free_memory(device)
    wanted = size or (_BUFFER if free is None else min(_BUFFER, free // 4))
    rows = max(wanted // (4 * _COLUMNS), 2)
    buffer = torch.ones(rows, _COLUMNS, device=device)
    vector = torch.ones(_COLUMNS, device=device)
    source, target = buffer[: rows // 2], buffer[rows // 2 : rows // 2 * 2]
    read = min(best_seconds(buffer.sum, device), best_seconds(lambda: buffer @ vector, device))
    copied = best_seconds(lambda: target.copy_(source), device)
    return Bandwidth(buffer.nbytes / read / 1e9, 2 * source.nbytes / copied / 1e9)


class ReadProbe:
    """A short measurement of read bandwidth between the parts of other work; `size` in bytes, None = 256 MiB."""

    def __init__(self, device: torch.device, size: int | None = None) -> None:
        self._device = device
        self._buffer = torch.ones((size or _SHORT) // 4, device=device)

    @torch.inference_mode()
    def __call__(self) -> float:
        """GB/s, the better of two passes."""
        times = []
        for _ in range(2):
            wait(self._device)
            began = time.perf_counter()
            self._buffer.sum()
            wait(self._device)
            times.append(time.perf_counter() - began)
        return self._buffer.nbytes / min(times) / 1e9


def matmul_tflops(device: torch.device, precision: EnginePrecision, side: int | None = None) -> float:
    """TFLOP/s of a large product of square matrices.

    Narrow weights may be converted to float32 as they are read, so the rate in float32 counts if it is higher.

    Raises:
        AlitokError: no kernel of this precision works here.
    """
    side = side or (_CPU_SIDE if device.type == "cpu" else _GPU_SIDE)
    products = [_product(device, name, side) for name in {"fp32": None, precision: None}]
    return 2 * side**3 / min(best_seconds(product, device) for product in products) / 1e12


def _product(device: torch.device, precision: EnginePrecision, side: int) -> Callable[[], object]:
    first, second = torch.rand(2, side, side, device=device).unbind()
    if precision == "int8":
        _, (layer,) = Kernels([Weight(first, first.new_zeros(side))], precision).fastest(side)
        return lambda: layer(second)
    if precision == "bf16":
        first, second = first.bfloat16(), second.bfloat16()
    return lambda: first @ second


@torch.inference_mode()
def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, the best of several rounds after a warm-up."""
    calls = 1 if device.type == "cpu" else _QUEUED
    work()
    wait(device)
    times: list[float] = []
    until = time.perf_counter() + _PATIENCE
    while len(times) < _LEAST_ROUNDS or (len(times) < _MOST_ROUNDS and time.perf_counter() < until):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        times.append((time.perf_counter() - began) / calls)
    return min(times)


def wait(device: torch.device) -> None:
    """Synchronize with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class PeakMemory:
    """Peak memory since this was made (off Linux: since the process began), of a GPU's tensors, else of the process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            (_PROC / "self" / "clear_refs").write_text("5")
            self._reset = True

    def read(self) -> int:
        """In bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        peak = re.search(r"VmHWM:\s+(\d+) kB", _text(_PROC / "self" / "status")) if self._reset else None
        return peak_memory() if peak is None else int(peak[1]) * 1024


def device_name(device: torch.device) -> str:
    """Name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = _text(_PROC / "cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", text)
    return f"{device.type}, {named[1].strip() if named else os.uname().machine}"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
