"""The parts of a generator's block for one token of each row, compiled by Numba: what `alitok.sampling.fused` calls.

Numba compiles a function when it is first called and keeps it in a cache on disk. Every weight is read once, in any of
float32, bf16 (as uint16) and int8; inputs and sums are float32. All arrays are numpy's; outputs are written in place.
Shapes: R rows, D width, I inner width of the MLP, N heads, E head size, P cached positions.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba import config, njit, prange, set_num_threads, types
from numba.extending import overload

from alitok.nn.attention import RMS_EPS

_EPS = np.float32(RMS_EPS)
_WHOLE = 4095  # inputs beside int8 weights are whole numbers up to it, or up to what sums of 32 bits can hold
LANES = 32  # outputs that are computed side by side
_STEP = 4  # inputs that are taken at a time
ALONE = threading.Lock()  # without OpenMP or TBB, Numba ends the program when two threads call it at the same time
SET, ADD, GATE = 0, 1, 2  # what becomes of a result: it replaces what `out` holds, is added, or multiplied by its SiLU


def use_threads(count: int) -> None:
    """As many as PyTorch uses, which several processes of a machine have divided among themselves."""
    set_num_threads(min(count, vars(config)["NUMBA_NUM_THREADS"]))


def tiles(weight: np.ndarray) -> np.ndarray:
    """Weights (N, K) in the order in which `linear_tiled` reads them: (N / 32, K, 32), with zeros where N ends."""
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
    """`x (R, K) @ weight.T + bias`, put into `out` (R, N) as `SET`, `ADD` or `GATE` says.

    The weights are `tiles` of float32, or of bf16 as uint16. A tile is read from one end to the other; two rows of x
    share what is read.
    """
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
    """`x (R, K) @ weight.T * x_scale * scale + bias` for int8 weights (N, K) and int16 x, put into `out` likewise."""
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
            share = scores[p] / total
            if weights.shape[1]:
                share *= weights[r, p]
            for e in range(size):
                attended[e] += share * cache[1, r, n, p, e]
        out[r, start : start + size] = attended
