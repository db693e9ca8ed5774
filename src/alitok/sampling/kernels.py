"""Linear layers for few rows: which call is fastest depends on processor, shape and rows, so it is measured."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from alitok.core.errors import AlitokError
from alitok.sampling.settings import EnginePrecision

_MEASURED_WEIGHTS = 8  # of one shape; together they should not fit into a processor's cache
_MEASURED_ROUNDS = 3
_SPLIT_WIDTH = 1024  # K of a part, in the kernel for wide inputs


class Weight(NamedTuple):
    """A linear layer's parameters."""

    weight: torch.Tensor  # (N, K)
    bias: torch.Tensor  # (N,), zeros where the layer has none


Kernel = Callable[[torch.Tensor], torch.Tensor]  # (M, K) float32, contiguous -> (M, N) float32, in any layout
Maker = Callable[[Weight], Kernel]


def _plain(linear: Weight) -> Kernel:
    weight, bias = linear
    return lambda x: F.linear(x, weight, bias)


def _weight_first(linear: Weight) -> Kernel:
    """The weight as the left factor, which turns thin rows of outputs into tall columns."""
    weight, bias = linear.weight, linear.bias[:, None]
    return lambda x: torch.addmm(bias, weight, x.t()).t()


def _split(linear: Weight) -> Kernel:
    """As `_weight_first`, with wide inputs split and summed."""
    weight, bias = linear
    count = -(-weight.shape[1] // _SPLIT_WIDTH)
    if count == 1 or weight.shape[1] % count:
        raise NotImplementedError
    parts = weight.view(len(weight), count, -1).transpose(0, 1).contiguous()
    return lambda x: torch.bmm(parts, x.view(len(x), count, -1).permute(1, 2, 0)).sum(0).t() + bias


def _packed(dtype: torch.dtype) -> Maker:
    """A weight packed for oneDNN. The operators are private to PyTorch, so they may be missing."""

    def make(linear: Weight) -> Kernel:
        weight, bias = linear.weight.to(dtype), linear.bias.to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        run = torch.ops.mkldnn._linear_pointwise
        return lambda x: run(x.to(dtype), packed, bias, "none", [], "").float()

    return make


def _rounded(maker: Maker) -> Maker:
    def make(linear: Weight) -> Kernel:
        run = maker(Weight(linear.weight.bfloat16(), linear.bias.bfloat16()))
        return lambda x: run(x.bfloat16()).float()

    return make


def to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers (N, K) in [-127, 127] and the scale (N,) of each row."""
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def _int8_dynamic(linear: Weight) -> Kernel:
    """Inputs are quantized on the fly to 7 or 8 bits with one scale; sums are exact."""
    whole, scale = to_int8(linear.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation of quantized tensors
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        quantized = torch._make_per_channel_quantized_tensor(whole, scale.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantized, linear.bias)
    run = torch.ops.quantized.linear_dynamic
    return lambda x: run(x, packed, True)


def _int8_weights(linear: Weight) -> Kernel:
    """Inputs in bf16; weights are converted from int8 as they are read."""
    if linear.weight.shape[0] % 16 or linear.weight.shape[1] % 32:
        raise NotImplementedError  # the operator does not check, and reads out of bounds
    whole, scale = to_int8(linear.weight)
    scale, bias = scale.bfloat16(), linear.bias
    run = torch.ops.aten._weight_int8pack_mm
    return lambda x: run(x.bfloat16(), whole, scale).float() + bias


_MAKERS: dict[EnginePrecision, dict[str, Maker]] = {
    "fp32": {"plain": _plain, "weight_first": _weight_first, "split": _split, "packed": _packed(torch.float32)},
    "bf16": {"plain": _rounded(_plain), "weight_first": _rounded(_weight_first), "packed": _packed(torch.bfloat16)},
    "int8": {"dynamic": _int8_dynamic, "weights": _int8_weights},
}


KERNELS = tuple(dict.fromkeys(name for makers in _MAKERS.values() for name in makers))


def row_class(rows: int) -> int:
    """The class of row counts that share a choice of kernels: 1, up to 4, up to 16, up to 64, and so on."""
    return ((rows - 1).bit_length() + 1) // 2


class Kernels:
    """The linear layers of one shape, with the kernel `only` (None = the fastest); AlitokError if none works here."""

    def __init__(self, linears: Sequence[Weight], precision: EnginePrecision, only: str | None = None) -> None:
        self._linears = linears
        place = linears[0].weight.device.type
        makers = {name: maker for name, maker in _MAKERS[precision].items() if place == "cpu" or name == "plain"}
        self._makers = {name: maker for name, maker in makers.items() if _works(maker, linears[0])}
        if not self._makers:
            raise AlitokError(f"This PyTorch has no {precision} kernel for {place}; choose fp32 or bf16.")
        if only in self._makers:
            self._makers = {only: self._makers[only]}
        self._best: dict[int, str] = {}
        self._made: dict[str, list[Kernel]] = {}

    def fastest(self, rows: int) -> tuple[str, list[Kernel]]:
        """The fastest kernel for M = `rows`, timed once per `row_class`: its name, and one callable per layer."""
        size, names = row_class(rows), list(self._makers)
        if size not in self._best:
            self._best[size] = min(names, key=lambda name: self._seconds(name, rows)) if len(names) > 1 else names[0]
        best = self._best[size]
        if best not in self._made:
            self._made[best] = [self._makers[best](linear) for linear in self._linears]
        return best, self._made[best]

    def release(self) -> None:
        """Free the memory of packed weights; the timings are kept."""
        self._made.clear()

    def _seconds(self, name: str, rows: int) -> float:
        """Of one call per layer, the best of several rounds."""
        ready = [self._makers[name](linear) for linear in self._linears[:_MEASURED_WEIGHTS]]
        x = torch.ones(rows, self._linears[0].weight.shape[1])
        times = []
        for _ in range(_MEASURED_ROUNDS):
            began = time.perf_counter()
            for kernel in ready:
                kernel(x)
            times.append(time.perf_counter() - began)
        return min(times)


def _works(maker: Maker, linear: Weight) -> bool:
    try:
        maker(linear)(linear.weight[:1].float() * 0)
    except (NotImplementedError, RuntimeError, AttributeError):
        return False
    return True
