"""A step of the generator in a handful of Numba calls per block, for few images at a time on a CPU; extra `cpu`.

There reading the weights is the limit, and PyTorch's time between its matrix products is about a fifth. Every weight is
read once, in float32, bf16 (as uint16) or int8; inputs and sums are float32. Outputs are written in place.
Shapes: R rows, D width, I inner width of the MLP, N heads, E head size, P cached positions, V codebook size.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import config, njit, prange, set_num_threads, types
from numba.extending import overload

from alitok.generator.model import Generator
from alitok.nn.attention import RMS_EPS
from alitok.nn.blocks import Block
from alitok.sampling.kernels import Weight, to_int8
from alitok.sampling.runner import Where, head_norms, linear_weight, linears, norm_weight
from alitok.sampling.settings import EnginePrecision

_EPS = np.float32(RMS_EPS)
_WHOLE = 4095  # inputs beside int8 weights are whole numbers up to it, or up to what sums of 32 bits can hold
LANES = 32  # outputs that are computed side by side
_STEP = 4  # inputs that are taken at a time
ALONE = threading.Lock()  # without OpenMP or TBB, Numba ends the program when two threads call it at the same time
SET, ADD, GATE = 0, 1, 2  # a result replaces `out`, is added to it, or multiplied by its SiLU


def tiles(weight: np.ndarray) -> np.ndarray:
    """Weights (N, K) in the order in which `linear_tiled` reads them: (N / 32, K, 32), padded with zeros."""
    outputs, inputs = weight.shape
    assert inputs % _STEP == 0, "widths are multiples of four times the heads"
    padded = np.zeros((-(-outputs // LANES) * LANES, inputs), weight.dtype)
    padded[:outputs] = weight
    return np.ascontiguousarray(padded.reshape(-1, LANES, inputs).transpose(0, 2, 1))


def _value(stored: Any) -> Any:
    """A stored weight as float32; only compiled code calls it."""
    raise NotImplementedError


@overload(_value, inline="always")
def _value_of(stored):  # noqa: ANN001, ANN202 (Numba compares the signature with those below)
    if stored == types.uint16:
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@njit(fastmath=True, nogil=True)
def _put(out: Any, row: int, n: int, value: Any, how: int) -> None:
    before = out[row, n]
    if how == ADD:
        value += before
    elif how == GATE:
        value *= before / (np.float32(1) + np.exp(-before))
    out[row, n] = value


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def linear_tiled(weight: Any, bias: Any, x: Any, out: Any, how: int) -> None:
    """`x (R, K) @ weight.T + bias` into `out` (R, N) by `SET`, `ADD` or `GATE`; tiles of float32, or bf16 as uint16."""
    rows, inputs = x.shape
    for tile in prange(weight.shape[0]):
        first, count = tile * LANES, min(LANES, out.shape[1] - tile * LANES)
        for row in range(0, rows, 2):
            second = min(row + 1, rows - 1)
            a, b = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
            for k in range(0, inputs, _STEP):
                a0, a1, a2, a3 = x[row, k], x[row, k + 1], x[row, k + 2], x[row, k + 3]
                b0, b1, b2, b3 = x[second, k], x[second, k + 1], x[second, k + 2], x[second, k + 3]
                for lane in range(LANES):
                    w0, w1 = _value(weight[tile, k, lane]), _value(weight[tile, k + 1, lane])
                    w2, w3 = _value(weight[tile, k + 2, lane]), _value(weight[tile, k + 3, lane])
                    a[lane] += w0 * a0 + w1 * a1 + w2 * a2 + w3 * a3
                    b[lane] += w0 * b0 + w1 * b1 + w2 * b2 + w3 * b3
            for lane in range(count):
                _put(out, row, first + lane, a[lane] + bias[first + lane], how)
                if second != row:
                    _put(out, second, first + lane, b[lane] + bias[first + lane], how)


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def linear_whole(weight: Any, scale: Any, bias: Any, x: Any, x_scale: Any, out: Any, how: int) -> None:
    """`x (R, K) @ weight.T * x_scale * scale + bias` for int8 weights (N, K) and int16 x, put into `out` by `how`."""
    for n in prange(weight.shape[0]):
        for row in range(x.shape[0]):
            total = np.int32(0)
            for k in range(weight.shape[1]):
                total = np.int32(total + np.int32(np.int32(weight[n, k]) * np.int32(x[row, k])))
            _put(out, row, n, np.float32(total) * x_scale[row] * scale[n] + bias[n], how)


@njit(fastmath=True, nogil=True, cache=True)
def to_whole(x: Any, whole: Any, scale: Any) -> None:
    """Inputs (R, K) as whole numbers (R, K) int16 times a scale (R,)."""
    most = np.float32(min(_WHOLE, (2**31 - 1) // (127 * x.shape[1])))
    for r in range(x.shape[0]):
        highest = np.float32(1e-30)
        for k in range(x.shape[1]):
            highest = max(highest, abs(x[r, k]))
        scale[r] = highest / most
        inverse = most / highest
        for k in range(x.shape[1]):
            whole[r, k] = np.int16(np.rint(x[r, k] * inverse))


@njit(fastmath=True, nogil=True, cache=True)
def rms_norm(x: Any, weight: Any, out: Any) -> None:
    """Over the last of (R, D)."""
    for r in range(x.shape[0]):
        total = np.float32(0)
        for k in range(x.shape[1]):
            total += x[r, k] * x[r, k]
        scale = np.float32(1) / np.sqrt(total / np.float32(x.shape[1]) + _EPS)
        for k in range(x.shape[1]):
            out[r, k] = x[r, k] * scale * weight[k]


@njit(fastmath=True, nogil=True, inline="always")
def _turn(x: Any, norm: Any, rotation: Any, out: Any) -> None:
    """RMS norm of a head (E,), then the rotation (E/2, 2) of its pairs."""
    size = x.shape[0]
    total = np.float32(0)
    for e in range(size):
        total += x[e] * x[e]
    scale = np.float32(1) / np.sqrt(total / np.float32(size) + _EPS)
    for pair in range(size // 2):
        even, odd = x[2 * pair] * scale * norm[2 * pair], x[2 * pair + 1] * scale * norm[2 * pair + 1]
        cos, sin = rotation[pair, 0], rotation[pair, 1]
        out[2 * pair] = even * cos - odd * sin
        out[2 * pair + 1] = odd * cos + even * sin


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def attend(qkv: Any, norms: Any, rotation: Any, cache: Any, position: int, weights: Any, out: Any) -> None:
    """Write this position's keys and values, then attend to all up to it.

    Shapes: qkv (R, 3 D), norms (2, E), rotation (E/2, 2), cache (2, R, N, P, E), weights (R, P or 0), out (R, D).
    """
    rows, heads, size = cache.shape[1], cache.shape[2], cache.shape[4]
    width = heads * size
    for item in prange(rows * heads):
        r, n = item // heads, item % heads
        start = n * size
        query = np.empty(size, np.float32)
        _turn(qkv[r, start : start + size], norms[0], rotation, query)
        _turn(qkv[r, width + start : width + start + size], norms[1], rotation, cache[0, r, n, position])
        for e in range(size):
            cache[1, r, n, position, e] = qkv[r, 2 * width + start + e]
        scores = np.empty(position + 1, np.float32)
        for p in range(position + 1):
            score = np.float32(0)
            for e in range(size):
                score += query[e] * cache[0, r, n, p, e]
            scores[p] = score
        highest = scores.max()
        total = np.float32(0)
        for p in range(position + 1):
            scores[p] = np.exp(scores[p] - highest)
            total += scores[p]
        attended = np.zeros(size, np.float32)
        for p in range(position + 1):
            prob = scores[p] / total
            if weights.shape[1]:
                prob *= weights[r, p]
            for e in range(size):
                attended[e] += prob * cache[1, r, n, p, e]
        out[r, start : start + size] = attended


@dataclass(frozen=True)
class _Linear:
    """A layer as it is stored: tiles of float32 or of bf16 as uint16, or int8 with a scale for each output."""

    weight: np.ndarray
    bias: np.ndarray  # (N,)
    scale: np.ndarray | None = None  # (N,), of int8

    @classmethod
    def of(cls, linear: Weight, precision: EnginePrecision) -> _Linear:
        weight, bias = linear.weight.float(), linear.bias.float().numpy()
        if precision == "int8":
            whole, scale = to_int8(weight)
            return cls(whole.numpy(), bias, scale.numpy())
        if precision == "bf16":
            return cls(tiles(weight.bfloat16().view(torch.uint16).numpy()), bias)
        return cls(tiles(weight.numpy()), bias)


@dataclass(frozen=True)
class _Layer:
    attention_norm: np.ndarray
    head_norms: np.ndarray  # (2, E)
    mlp_norm: np.ndarray
    linears: dict[str, _Linear]


class FusedRunner:
    """A generator on a CPU in evaluation mode, ready to run one token of each row; it copies all weights."""

    def __init__(self, generator: Generator, precision: EnginePrecision) -> None:
        self._embeddings = generator.embeddings.weight.detach().float().numpy()
        self._rotary = generator.rotary.float().numpy()  # (P, E/2, 2)
        self._norm = norm_weight(generator.norm).float().numpy()
        self._output = _Linear.of(linear_weight(generator.output), precision)
        self._layers = [
            _Layer(
                norm_weight(block.attention_norm).float().numpy(),
                head_norms(block).flatten(0, 1).float().numpy(),
                norm_weight(block.mlp_norm).float().numpy(),
                {name: _Linear.of(linear, precision) for name, linear in linears(block).items()},
            )
            for block in generator.blocks
            if isinstance(block, Block)
        ]

    def __call__(
        self,
        tokens: torch.Tensor,
        cache: torch.Tensor,
        where: Where,
        filled: int,
        *,
        hidden: torch.Tensor | None = None,
        value_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `Runner.__call__` for tokens (R, 1); `where` is a slice that the host knows, so no position is hidden."""
        assert isinstance(where, slice)
        assert hidden is None
        assert filled == where.start + 1
        x = self._embeddings[tokens[:, 0].numpy()]  # a copy, which the blocks add to
        weights = np.empty((len(x), 0), np.float32) if value_weights is None else value_weights.contiguous().numpy()
        with ALONE:
            # As many as PyTorch, whose number several processes of a machine have divided.
            set_num_threads(min(torch.get_num_threads(), vars(config)["NUMBA_NUM_THREADS"]))
            return torch.from_numpy(self._logits(x, cache.numpy(), where.start, weights))

    def _logits(self, x: np.ndarray, cache: np.ndarray, position: int, weights: np.ndarray) -> np.ndarray:
        space = _Buffers(len(x), x.shape[1], self._layers[0])
        for layer, store in zip(self._layers, cache, strict=True):
            parts = layer.linears
            rms_norm(x, layer.attention_norm, space.normed)
            space.apply(parts["qkv"], space.normed, space.qkv)
            attend(space.qkv, layer.head_norms, self._rotary[position], store, position, weights, space.attended)
            space.apply(parts["out"], space.attended, x, ADD)
            rms_norm(x, layer.mlp_norm, space.normed)
            space.apply(parts["gate"], space.normed, space.inner)
            space.apply(parts["up"], space.normed, space.inner, GATE)
            space.apply(parts["down"], space.inner, x, ADD)
        rms_norm(x, self._norm, space.normed)
        logits = np.empty((len(x), len(self._output.bias)), np.float32)
        space.apply(self._output, space.normed, logits)
        return logits


class _Buffers:
    def __init__(self, rows: int, width: int, layer: _Layer) -> None:
        inner = len(layer.linears["up"].bias)
        self.normed, self.attended = (np.empty((rows, width), np.float32) for _ in range(2))
        self.qkv, self.inner = np.empty((rows, 3 * width), np.float32), np.empty((rows, inner), np.float32)
        self._whole = {size: np.empty((rows, size), np.int16) for size in (width, inner)}
        self._scale = np.empty(rows, np.float32)

    def apply(self, linear: _Linear, x: np.ndarray, out: np.ndarray, how: int = SET) -> None:
        if linear.scale is None:
            linear_tiled(linear.weight, linear.bias, x, out, how)
            return
        whole = self._whole[x.shape[1]]
        to_whole(x, whole, self._scale)
        linear_whole(linear.weight, linear.scale, linear.bias, whole, self._scale, out, how)
