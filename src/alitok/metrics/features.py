"""The interface of feature networks for images, and the arithmetic that published numbers rest on.

Numbers from two networks are never compared, so each has a name; only distances in the features of the network that
published numbers use are called FID. Shapes: B images, D features, S spatial features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch


class Features(NamedTuple):
    """Output of a feature network for B images, float32."""

    pool: torch.Tensor  # (B, D) of the whole image
    spatial: torch.Tensor | None  # (B, S) with a position in the image, if the network has such features
    probabilities: torch.Tensor  # (B, C)


class FeatureExtractor(Protocol):
    """A frozen feature network; `distance` is what the Frechet distance in its features is called, such as "FID"."""

    name: str
    weights: str
    distance: str

    def __call__(self, images: torch.Tensor) -> Features:
        """Features of images (B, 3, h, w) uint8 on the network's device, without gradients."""
        ...


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Deterministic float32 convolutions on this device: no autocast, no TF32 (cuDNN's default)."""
    cudnn = torch.backends.cudnn
    with (
        torch.autocast(device.type, enabled=False),
        cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False),
    ):
        yield
