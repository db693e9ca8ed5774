"""The arithmetic that published numbers rest on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in float32 and the same every time on this device, whatever surrounds the context.

    Neither autocast nor TF32 reaches them; cuDNN takes the latter, with 10 bits for a factor, if nobody objects.
    """
    cudnn = torch.backends.cudnn
    with (
        torch.autocast(device.type, enabled=False),
        cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False),
    ):
        yield
