import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from alitok.apps.bench import roofline
from alitok.apps.bench.roofline import bandwidth, best_seconds, device_name, matmul_tflops

CPU = torch.device("cpu")
MIB = 1 << 20


def test_the_machine_has_a_bandwidth_and_a_rate():
    found = bandwidth(CPU, 8 * MIB)
    assert found.read_gb_s > 0
    assert found.copy_gb_s > 0
    assert matmul_tflops(CPU, "fp32", 64) > 0
    assert device_name(CPU).startswith("cpu, ")


def test_bandwidth_counts_what_is_read_once_and_what_is_copied_twice(monkeypatch):
    seconds = iter([4.0, 2.0, 0.5])  # added up, multiplied, copied
    done = []

    def timed(work, device):
        done.append(work())
        return next(seconds)

    monkeypatch.setattr(roofline, "best_seconds", timed)
    found = bandwidth(CPU, 8 * MIB)
    assert found.read_gb_s == pytest.approx(8 * MIB / 2.0 / 1e9)
    assert found.copy_gb_s == pytest.approx(8 * MIB / 0.5 / 1e9)
    assert done[0] == done[1].sum() == 2 * MIB  # ones: all numbers of the buffer have been read
    assert done[2].numel() == MIB


def test_the_buffer_is_what_memory_allows(monkeypatch):
    sizes = []
    monkeypatch.setattr(roofline, "best_seconds", lambda work, device: sizes.append(work().numel()) or 1.0)
    monkeypatch.setattr(roofline, "free_memory", lambda device: 64 * MIB)
    bandwidth(CPU)
    assert sizes[2] * 2 * 4 == 16 * MIB


def test_a_product_counts_the_faster_of_float32_and_the_precision(monkeypatch):
    seconds = {torch.float32: 2.0, torch.bfloat16: 8.0}
    tried = []

    def timed(work, device):
        tried.append(work().dtype)
        return seconds[tried[-1]]

    monkeypatch.setattr(roofline, "best_seconds", timed)
    assert matmul_tflops(CPU, "bf16", 32) == pytest.approx(2 * 32**3 / 2.0 / 1e12)
    assert tried == [torch.float32, torch.bfloat16]
    seconds[torch.bfloat16] = 0.5
    assert matmul_tflops(CPU, "bf16", 32) == pytest.approx(2 * 32**3 / 0.5 / 1e12)
    tried.clear()
    assert matmul_tflops(CPU, "fp32", 32) == pytest.approx(2 * 32**3 / 2.0 / 1e12)
    assert tried == [torch.float32]


def test_a_product_in_int8_takes_a_kernel_of_the_engine(monkeypatch):
    multiplied = []

    class Watched:
        def __init__(self, linears, precision):
            assert precision == "int8"
            self.linears = linears

        def fastest(self, rows):
            assert rows == 32
            return "watched", [lambda x: multiplied.append(x.shape) or x for _ in self.linears]

    monkeypatch.setattr(roofline, "Kernels", Watched)
    assert matmul_tflops(CPU, "int8", 32) > 0
    assert set(multiplied) == {(32, 32)}


def test_rounds_end_and_the_best_counts(monkeypatch):
    clock, calls = iter([0.0, *(value for took in (3.0, 1.0, 2.0) for value in (10.0, 10.0 + took))]), []
    monkeypatch.setattr(roofline, "time", SimpleNamespace(perf_counter=lambda: next(clock, 100.0)))
    assert best_seconds(lambda: calls.append(1), CPU) == 1.0
    assert len(calls) == 4  # one that warms up, and the fewest there may be when patience is at an end


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an earlier peak is not forgotten")
def test_peak_memory_forgets_what_was_before():
    """In a process of its own: one that has freed much memory takes it again without a new peak."""
    code = """
import torch
from alitok.apps.bench.roofline import PeakMemory
big = torch.ones(64 << 20)
del big
peak = PeakMemory(torch.device("cpu"))
before = peak.read()
middle = torch.ones(16 << 20)
del middle
print(peak.read() - before)
"""
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 56 * MIB < int(grown) < 80 * MIB
