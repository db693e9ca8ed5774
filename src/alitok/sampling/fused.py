"""A step of the generator in a handful of compiled calls per block: for a CPU that draws few images at a time.

There a step is bound by reading the weights, and what PyTorch spends between its matrix products is about a fifth of
the time. Enters: tokens (R, 1) behind those in the cache. Leaves: logits (R, V), as `alitok.sampling.runner` does.
Needs Numba (the extra `cpu`). Shapes: as in `alitok.sampling.runner`; I inner width of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alitok.generator.model import Generator
from alitok.nn.blocks import Block
from alitok.sampling import numba_kernels as compiled
from alitok.sampling.kernels import Weight, to_int8
from alitok.sampling.runner import Where, head_norms, linears, norm_weight, output_linear
from alitok.sampling.settings import EnginePrecision

Array = np.ndarray


@dataclass(frozen=True)
class _Linear:
    """A layer as it is stored: tiles of float32 or of bf16 as uint16, or int8 with a scale for each output."""

    weight: Array
    bias: Array  # (N,)
    scale: Array | None = None  # (N,), of int8

    @classmethod
    def of(cls, linear: Weight, precision: EnginePrecision) -> _Linear:
        weight, bias = linear.weight.float(), linear.bias.float().numpy()
        if precision == "int8":
            whole, scale = to_int8(weight)
            return cls(whole.numpy(), bias, scale.numpy())
        if precision == "bf16":
            return cls(compiled.tiles(weight.bfloat16().view(torch.uint16).numpy()), bias)
        return cls(compiled.tiles(weight.numpy()), bias)


@dataclass(frozen=True)
class _Layer:
    attention_norm: Array
    head_norms: Array  # (2, E)
    mlp_norm: Array
    linears: dict[str, _Linear]


class FusedRunner:
    """A generator on a CPU, ready to read one token of each row.

    Args:
        generator: in evaluation mode.
        precision: of the weights, which it holds in an order of its own.
    """

    def __init__(self, generator: Generator, precision: EnginePrecision) -> None:
        self._embeddings = generator.embeddings.weight.detach().float().numpy()
        self._rotary = generator.rotary.float().numpy()  # (P, E/2, 2)
        self._norm = norm_weight(generator.norm).float().numpy()
        self._output = _Linear.of(output_linear(generator), precision)
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
        """Read tokens (R, 1) and write their keys and values; the arguments are those of `Runner.__call__`.

        `where` is known to the host, and attention looks at all positions up to it, so nothing is hidden.
        """
        assert isinstance(where, slice)
        assert hidden is None
        with compiled.ALONE:
            return self._read(tokens, cache, where, filled, value_weights)

    def _read(
        self,
        tokens: torch.Tensor,
        cache: torch.Tensor,
        where: slice,
        filled: int,
        value_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        compiled.use_threads(torch.get_num_threads())
        position, rows = where.start, len(tokens)
        assert filled == position + 1
        x = self._embeddings[tokens[:, 0].numpy()]  # a copy, which the blocks add to
        weights = np.empty((rows, 0), np.float32) if value_weights is None else value_weights.contiguous().numpy()
        space = _Space(rows, x.shape[1], self._layers[0])
        rotation = self._rotary[position]
        for layer, store in zip(self._layers, cache.numpy(), strict=True):
            parts = layer.linears
            compiled.rms_norm(x, layer.attention_norm, space.normed)
            space.apply(parts["qkv"], space.normed, space.qkv)
            compiled.attend(space.qkv, layer.head_norms, rotation, store, position, weights, space.attended)
            space.apply(parts["out"], space.attended, x, compiled.ADD)
            compiled.rms_norm(x, layer.mlp_norm, space.normed)
            space.apply(parts["gate"], space.normed, space.inner)
            space.apply(parts["up"], space.normed, space.inner, compiled.GATE)
            space.apply(parts["down"], space.inner, x, compiled.ADD)
        compiled.rms_norm(x, self._norm, space.normed)
        logits = np.empty((rows, len(self._output.bias)), np.float32)
        space.apply(self._output, space.normed, logits)
        return torch.from_numpy(logits)


class _Space:
    """Room for what a block computes on the way, and the layers that compute it."""

    def __init__(self, rows: int, width: int, layer: _Layer) -> None:
        inner = len(layer.linears["up"].bias)
        self.normed, self.attended = (np.empty((rows, width), np.float32) for _ in range(2))
        self.qkv, self.inner = np.empty((rows, 3 * width), np.float32), np.empty((rows, inner), np.float32)
        self._whole = {size: np.empty((rows, size), np.int16) for size in (width, inner)}
        self._scale = np.empty(rows, np.float32)

    def apply(self, linear: _Linear, x: Array, out: Array, how: int = compiled.SET) -> None:
        """A linear layer; `how` its result is put into `out`."""
        if linear.scale is None:
            compiled.linear_tiled(linear.weight, linear.bias, x, out, how)
            return
        whole = self._whole[x.shape[1]]
        compiled.to_whole(x, whole, self._scale)
        compiled.linear_whole(linear.weight, linear.scale, linear.bias, whole, self._scale, out, how)
