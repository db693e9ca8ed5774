"""The arithmetic of `Generator.forward`, arranged for one token of each row at a time over a key-value cache.

Shapes: R rows (both guidance branches), n new tokens, P positions of the cache, N heads, E head size, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from alitok.generator.model import Generator
from alitok.nn.attention import RMS_EPS
from alitok.nn.blocks import Block, SwiGlu
from alitok.sampling.kernels import Kernel, Kernels, Weight
from alitok.sampling.settings import EnginePrecision

Where = slice | torch.Tensor  # of the new tokens: known to the host, or only to the device


@dataclass(frozen=True)
class _Layer:
    """One block: kernels, and norms with all that can be folded into them."""

    attention_norm: torch.Tensor
    qkv: Kernel
    head_norms: torch.Tensor  # (2, 1, E)
    out: Kernel
    mlp_norm: torch.Tensor
    gate: Kernel
    up: Kernel
    down: Kernel


class Runner:
    """A generator (in evaluation mode) ready for sampling; parameters are shared where no kernel needs its own copy.

    `precision` is of the linear layers' weights and inputs; sums, norms and softmax are float32. `kernel` None = the
    fastest; `kernel_names` is empty before `choose`. Raises AlitokError if no kernel has this precision on the device.
    """

    def __init__(self, generator: Generator, precision: EnginePrecision, kernel: str | None = None) -> None:
        config = generator.config
        self.heads, self.width = config.heads, config.width
        self.head_size = config.width // config.heads
        self.embeddings = generator.embeddings.weight.detach()
        self.norm = norm_weight(generator.norm)
        self.rotary = torch.view_as_complex(generator.rotary.contiguous())  # (P, E/2)
        self.kernel_names: dict[str, str] = {}
        self._blocks = [block for block in generator.blocks if isinstance(block, Block)]
        layers = [linears(block) for block in self._blocks]
        self._kernels = {name: Kernels([layer[name] for layer in layers], precision, kernel) for name in layers[0]}
        self._output_kernels = Kernels([linear_weight(generator.output)], precision, kernel)

    def choose(self, rows: int) -> None:
        """Use the kernels that are fastest for R = `rows`."""
        ready: dict[str, list[Kernel]] = {}
        for name, kernels in self._kernels.items():
            self.kernel_names[name], ready[name] = kernels.fastest(rows)
        self.kernel_names["output"], (self.output,) = self._output_kernels.fastest(rows)
        self.layers = [
            _Layer(
                attention_norm=norm_weight(block.attention_norm),
                head_norms=head_norms(block),
                mlp_norm=norm_weight(block.mlp_norm),
                **{name: ready[name][index] for name in ready},
            )
            for index, block in enumerate(self._blocks)
        ]

    def release(self) -> None:
        """Free the memory of kernels; `choose` makes them again."""
        self.layers = []
        for kernels in (*self._kernels.values(), self._output_kernels):
            kernels.release()

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
        """Run tokens, write their keys and values, and return the logits (R, V) float32 after the last.

        Args:
            tokens: (R, n) rows of the embedding table, at the positions `where`.
            cache: (layers, 2, R, N, P, E), filled up to the tokens' own positions.
            filled: number of positions that attention sees.
            hidden: bool, broadcast to (R * N, n, filled): positions that are masked out.
            value_weights: (R, filled) factors of the values; n is then 1.
        """
        rows, count = tokens.shape
        x = F.embedding(tokens.flatten(), self.embeddings).float()  # (R * n, D)
        rotation = self.rotary[where][:, None]  # (n, 1, E/2)
        weights = None if value_weights is None else value_weights.repeat_interleave(self.heads, dim=0)[:, None]
        for layer, store in zip(self.layers, cache, strict=True):
            normed = F.rms_norm(x, (self.width,), layer.attention_norm, RMS_EPS)
            attended = self._attend(layer, layer.qkv(normed), rows, store, where, filled, rotation, hidden, weights)
            x = x + layer.out(attended)
            normed = F.rms_norm(x, (self.width,), layer.mlp_norm, RMS_EPS)
            inner = F.silu(layer.gate(normed)).mul_(layer.up(normed))
            x = x + layer.down(inner.contiguous())
        last = x.view(rows, count, self.width)[:, -1].contiguous()
        return self.output(F.rms_norm(last, (self.width,), self.norm, RMS_EPS))

    def _attend(
        self,
        layer: _Layer,
        qkv: torch.Tensor,
        rows: int,
        store: torch.Tensor,
        where: Where,
        filled: int,
        rotation: torch.Tensor,
        hidden: torch.Tensor | None,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """(R * n, 3 D) -> (R * n, D), by two products with all filled positions."""
        size, heads = self.head_size, self.heads
        qkv = qkv.reshape(rows, -1, 3, heads, size)  # (R, n, 3, N, E)
        turned = F.rms_norm(qkv[:, :, :2], (size,), eps=RMS_EPS) * layer.head_norms
        pairs = torch.view_as_complex(turned.unflatten(-1, (-1, 2))) * rotation[:, None]
        queries, new_keys = torch.view_as_real(pairs).flatten(-2).transpose(1, 3).unbind(2)  # (R, N, n, E) each
        store[0][:, :, where] = new_keys.to(store.dtype)
        store[1][:, :, where] = qkv[:, :, 2].transpose(1, 2).to(store.dtype)
        keys, values = store.flatten(1, 2)[:, :, :filled]  # (R * N, filled, E) each
        scores = torch.bmm(queries.reshape(rows * heads, -1, size).to(store.dtype), keys.transpose(1, 2)).float()
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        probs = scores.softmax(-1)
        if weights is not None:
            probs = probs * weights
        attended = torch.bmm(probs.to(store.dtype), values).float().view(rows, heads, -1, size)
        return attended.transpose(1, 2).reshape(-1, self.width)


def linears(block: Block) -> dict[str, Weight]:
    """The linear layers of a block, by their names in `_Layer`."""
    attention, mlp = block.attention, block.mlp
    assert isinstance(mlp, SwiGlu)
    layers = {"qkv": attention.qkv, "out": attention.out, "gate": mlp.gate, "up": mlp.up, "down": mlp.down}
    return {name: linear_weight(layer) for name, layer in layers.items()}


def head_norms(block: Block) -> torch.Tensor:
    """(2, 1, E) factors of a head's queries (with the scores' 1 / sqrt(E)) and of its keys."""
    attention = block.attention
    queries = attention.query_norm.weight.detach()
    return torch.stack([queries * len(queries) ** -0.5, attention.key_norm.weight.detach()])[:, None]


def norm_weight(norm: nn.Module) -> torch.Tensor:
    """The factors of an RMS norm."""
    assert isinstance(norm, nn.RMSNorm)
    return norm.weight.detach()


def linear_weight(layer: nn.Linear) -> Weight:
    """Its weight and bias, zeros where it has none."""
    weight = layer.weight.detach()
    return Weight(weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach())
