"""The parts of a generator's block for one token of each row, compiled by Numba: what `alitok.generator.fused` calls.

Numba compiles a function when it is first called and keeps it in a cache on disk. Every weight is read once, in any of
float32, bf16 (as uint16) and int8; inputs and sums are float32. All arrays are numpy's; outputs are written in place.
Shapes: R rows, D width, I inner width of the MLP, N heads, E head size, P cached positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, njit, prange, set_num_threads, types
from numba.extending import overload

_EPS = np.float32(1e-5)  # alitok.nn.attention.RMS_EPS


_WHOLE = 4095  # inputs beside int8 weights are whole numbers up to it: 127 * 4095 * 4096 additions fit into 32 bits


_PART = 768  # inputs that are read at a time, so that those of two rows stay in the nearest cache
SET, ADD, GATE = 0, 1, 2  # what becomes of a result: it replaces what `out` holds, is added, or multiplied by its SiLU


def use_threads(count: int) -> None:
    """As many as PyTorch uses, which several processes of a machine have divided among themselves."""
    set_num_threads(min(count, vars(config)["NUMBA_NUM_THREADS"]))


def _dots(weight: Any, x: Any, row: int, second: int) -> Any:
    """Products of weights (K,) and two rows of x (R, K), as float32; only compiled code calls it."""
    raise NotImplementedError


@overload(_dots, jit_options={"fastmath": True, "nogil": True})
def _dots_of(weight, x, row, second):  # noqa: ANN001, ANN202 (Numba compares the signature with those below)
    return {types.int8: _whole_dots, types.uint16: _bf16_dots}.get(weight.dtype, _float_dots)


def _whole_dots(weight, x, row, second):  # noqa: ANN001, ANN202
    a = b = np.int32(0)
    for k in range(weight.shape[0]):  # one row after the other: this is bound by arithmetic, not by memory
        a = np.int32(a + np.int32(np.int32(weight[k]) * np.int32(x[row, k])))
    if second != row:
        for k in range(weight.shape[0]):
            b = np.int32(b + np.int32(np.int32(weight[k]) * np.int32(x[second, k])))
    return np.float32(a), np.float32(b)


def _bf16_dots(weight, x, row, second):  # noqa: ANN001, ANN202
    a = b = np.float32(0)
    for k in range(weight.shape[0]):
        w = np.uint32(np.uint32(weight[k]) << np.uint32(16)).view(np.float32)
        a += w * x[row, k]
        b += w * x[second, k]
    return a, b


def _float_dots(weight, x, row, second):  # noqa: ANN001, ANN202
    a = b = np.float32(0)
    width = weight.shape[0]
    for start in range(0, width, _PART):
        part_a = part_b = np.float32(0)
        for k in range(start, min(start + _PART, width)):
            part_a += weight[k] * x[row, k]
            part_b += weight[k] * x[second, k]
        a += part_a
        b += part_b
    return a, b


@njit(fastmath=True, nogil=True)
def _put(out: Any, row: int, n: int, value: Any, how: int) -> None:
    before = out[row, n]
    if how == ADD:
        value += before
    elif how == GATE:
        value *= before / (np.float32(1) + np.exp(-before))
    out[row, n] = value


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def linear(weight: Any, scale: Any, bias: Any, x: Any, x_scale: Any, out: Any, how: int) -> None:
    """`x (R, K) @ weight.T * x_scale * scale + bias`, put into `out` (R, N) as `SET`, `ADD` or `GATE` says."""
    rows = x.shape[0]
    for n in prange(weight.shape[0]):
        for row in range(0, rows, 2):
            second = min(row + 1, rows - 1)
            a, b = _dots(weight[n], x, row, second)
            _put(out, row, n, a * x_scale[row] * scale[n] + bias[n], how)
            if second != row:
                _put(out, second, n, b * x_scale[second] * scale[n] + bias[n], how)


@njit(fastmath=True, nogil=True, cache=True)
def to_whole(x: Any, whole: Any, scale: Any) -> None:
    """X (R, K) as whole numbers (R, K) int16 times a scale (R,)."""
    for r in range(x.shape[0]):
        highest = np.float32(1e-30)
        for k in range(x.shape[1]):
            highest = max(highest, abs(x[r, k]))
        scale[r] = highest / np.float32(_WHOLE)
        inverse = np.float32(_WHOLE) / highest
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
    """Write this position's keys and values, then look at all up to it.

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
        highest = np.float32(-np.inf)
        for p in range(position + 1):
            score = np.float32(0)
            for e in range(size):
                score += query[e] * cache[0, r, n, p, e]
            scores[p] = score
            highest = max(highest, score)
        total = np.float32(0)
        for p in range(position + 1):
            scores[p] = np.exp(scores[p] - highest)
            total += scores[p]
        attended = np.zeros(size, np.float32)
        for p in range(position + 1):
            share = scores[p] / total
            if weights.shape[1]:
                share *= weights[r, p]
            for e in range(size):
                attended[e] += share * cache[1, r, n, p, e]
        out[r, start : start + size] = attended
