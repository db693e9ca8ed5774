"""GPUs by name, as in their data sheets.

Rates are dense (without sparsity), memory is what the sheet calls it in GB (1e9 bytes), links count one direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alitok.core.errors import AlitokError

HalfOrFull = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, in the machine it usually comes in.

    Attributes:
        memory, bandwidth: bytes, and bytes/s.
        bf16, fp32: FLOP/s of matrix products with float32 sums; fp32 without TF32.
        link: bytes/s from one GPU to the others of its machine.
        network: bytes/s from one machine to the others, over all its cards together.
    """

    name: str
    memory: float
    bandwidth: float
    bf16: float
    fp32: float
    link: float
    network: float
    per_machine: int = 8

    def rate(self, precision: HalfOrFull) -> float:
        """Peak FLOP/s."""
        return self.bf16 if precision == "bf16" else self.fp32


_PCIE4 = 32  # GB/s


def _gpu(name: str, gb: float, tb_s: float, bf16: float, fp32: float, link: float, gigabits: float) -> Gpu:
    return Gpu(name, gb * 1e9, tb_s * 1e12, bf16 * 1e12, fp32 * 1e12, link * 1e9, gigabits * 1e9 / 8)


GPUS = {
    #            name             GB   TB/s   bf16   fp32  link  Gbit/s of a machine
    "a100": _gpu("A100 80 GB SXM", 80, 2.039, 312, 19.5, 300, 8 * 200),
    "a800": _gpu("A800 80 GB SXM", 80, 2.039, 312, 19.5, 200, 8 * 200),
    "h100": _gpu("H100 80 GB SXM", 80, 3.35, 989, 67, 450, 8 * 400),
    "h800": _gpu("H800 80 GB SXM", 80, 3.35, 989, 67, 200, 8 * 400),
    "h200": _gpu("H200 141 GB SXM", 141, 4.8, 989, 67, 450, 8 * 400),
    "b200": _gpu("B200 180 GB SXM", 180, 7.7, 2250, 75, 900, 8 * 400),
    "l40s": _gpu("L40S 48 GB PCIe", 48, 0.864, 362, 91.6, _PCIE4, 2 * 200),
    "4090": _gpu("GeForce RTX 4090", 24, 1.008, 165, 82.6, _PCIE4, 100),
}


def gpu_named(name: str) -> Gpu:
    """The GPU of that name, in any case, with or without a leading RTX; AlitokError if it is not in the list."""
    found = GPUS.get(name.strip().lower().removeprefix("rtx").strip())
    if found is None:
        raise AlitokError(f"Unknown GPU {name!r}; choose one of: {', '.join(GPUS)}.")
    return found
