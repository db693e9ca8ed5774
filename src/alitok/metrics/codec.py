"""The protocol of a tokenizer that can be probed, ours or any other, and checked calls of its two methods.

Shapes: B images, h image size, G grid side, T codes of an image, D feature width, V codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from alitok.core.errors import AlitokError

_OVERSHOOT = 0.25  # how far outside [0, 1] decoded pixels may be; beyond, they have another range altogether
_UNSTABLE = 0.02  # fraction of codes that rounding may change from call to call
_REPEATED = 8  # images that are encoded a second time
_MAX_CODE = 2**31  # codes from here on are not codebook indices


class Codec(Protocol):
    """Images to codes and back.

    Optional, and used if present: `features(images) -> (B, T, D)` floats, what is quantized to the codes;
    `nearest(features) -> (B, T)` codes, so that one pass through the encoder gives both; `codebook`, the (V, D) tensor
    of which a code is the nearest row; `codebook_size`, V; `image_size`, h; `grid`, G; `device`, where it wants its
    tensors (default: that of a module's parameters, else the CPU).
    """

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, h) float32 in [0, 1] -> codes (B, T), integers from 0 on."""
        ...

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T) int64 -> images (B, 3, h, h) floats in [0, 1]."""
        ...


class Encoded(NamedTuple):
    """Codes (B, T) int64 and, if the codec has them, features (B, T, D), on the codec's device."""

    codes: torch.Tensor
    features: torch.Tensor | None


def device_of(codec: object) -> torch.device:
    """Where a codec wants its tensors: its `device`, or that of a module's parameters, else the CPU."""
    if not hasattr(codec, "device") and isinstance(codec, nn.Module):
        return next((parameter.device for parameter in codec.parameters()), torch.device("cpu"))
    return torch.device(getattr(codec, "device", "cpu"))


@torch.no_grad()
def encode(codec: Codec, images: torch.Tensor) -> Encoded:
    """Encode images (B, 3, h, h) on any device.

    Raises:
        AlitokError: the codec fails, or returns something else than codes and features.
    """
    images = images.to(device_of(codec))
    to_features, nearest = getattr(codec, "features", None), getattr(codec, "nearest", None)
    if to_features is not None and nearest is not None:
        features = to_features(images)
        return Encoded(nearest(features), features)
    codes = _call(codec, "encode", codec.encode, images)
    if codes.ndim != 2 or len(codes) != len(images) or codes.is_floating_point() or codes.is_complex():
        raise AlitokError(
            f"encode of {_name(codec)} must return integers (B, T), here ({len(images)}, T), not {codes.dtype} "
            f"{tuple(codes.shape)}."
        )
    limit = int(getattr(codec, "codebook_size", _MAX_CODE))
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < limit:
        raise AlitokError(
            f"encode of {_name(codec)} returns codes from {int(codes.min())} to {int(codes.max())}; they must be at "
            f"least 0 and less than {limit:,}."
        )
    if to_features is None:
        return Encoded(codes.long(), None)
    features = _call(codec, "features", to_features, images)
    if features.ndim != 3 or features.shape[:2] != codes.shape or not features.is_floating_point():
        raise AlitokError(
            f"features of {_name(codec)} must return floats (B, T, D), here ({len(images)}, {codes.shape[1]}, D), not "
            f"{features.dtype} {tuple(features.shape)}."
        )
    return Encoded(codes.long(), features)


@torch.no_grad()
def decode(codec: Codec, codes: torch.Tensor, image_size: int) -> torch.Tensor:
    """Decode codes (B, T) int64 on any device to images (B, 3, h, h) in [0, 1] on the codec's.

    Raises:
        AlitokError: the codec fails, or returns something else than images of `image_size` in [0, 1].
    """
    images = _call(codec, "decode", codec.decode, codes.to(device_of(codec)))
    wanted = (len(codes), 3, image_size, image_size)
    if images.shape != wanted or not images.is_floating_point():
        raise AlitokError(
            f"decode of {_name(codec)} must return floats {wanted}, not {images.dtype} {tuple(images.shape)}."
        )
    low, high = images.aminmax()
    if not (float(low) >= -_OVERSHOOT and float(high) <= 1 + _OVERSHOOT):  # written so that NaN is rejected too
        raise AlitokError(
            f"decode of {_name(codec)} returns pixels from {float(low):.3g} to {float(high):.3g}; they must be in "
            "[0, 1]."
        )
    return images.float().clamp(0, 1)


def check_codec(codec: Codec, images: torch.Tensor, *, grid: int | None = None) -> tuple[int, int]:
    """Find grid side and prefix length of a codec's codes, from at least 2 images (B, 3, h, h) float32 in [0, 1].

    Without `grid`, all codes form a square grid.

    Raises:
        AlitokError: a method is missing, inconsistent or returns something else, or the codes do not fit the grid.
    """
    for name in ("encode", "decode"):
        if not callable(getattr(codec, name, None)):
            raise AlitokError(f"{_name(codec)} has no method {name}; a tokenizer needs encode and decode.")
    some = images[:_REPEATED]
    codes = encode(codec, some).codes
    layout = _layout(codec, codes.shape[1], images.shape[-1], grid)
    decode(codec, codes, images.shape[-1])
    alone = [encode(codec, image[None]).codes for image in some]
    if any(each.shape[1:] != codes.shape[1:] for each in alone):
        raise AlitokError(f"encode of {_name(codec)} returns another number of codes for one image than for several.")
    changed = (torch.cat(alone) != codes).float().mean().item()
    if changed > _UNSTABLE:
        raise AlitokError(
            f"encode of {_name(codec)} returns other codes for the same images one at a time ({changed:.0%} of them); "
            "put the model into evaluation mode."
        )
    return layout


def _layout(codec: object, length: int, image_size: int, grid: int | None) -> tuple[int, int]:
    side = round(length**0.5) if grid is None else grid
    if grid is None and side**2 != length:
        raise AlitokError(
            f"{_name(codec)} returns {length} codes, which do not form a square grid. Give the number of patches per "
            "side with --grid; the codes before them are its prefix."
        )
    if side < 1 or side**2 > length:
        raise AlitokError(
            f"A grid of {side} x {side} patches needs at least {side**2} codes, and {_name(codec)} returns {length}; a "
            "map needs a code for each patch."
        )
    if image_size % side:
        raise AlitokError(f"Images of {image_size} px cannot be cut into {side} x {side} patches of one size.")
    return side, length - side**2


def _call(codec: object, method: str, function: Callable[[torch.Tensor], Any], given: torch.Tensor) -> torch.Tensor:
    try:
        found = function(given)
    except AlitokError:
        raise
    except Exception as error:  # foreign code may raise anything
        raise AlitokError(
            f"{method} of {_name(codec)} fails on {given.dtype} {tuple(given.shape)} with {type(error).__name__}: "
            f"{error}."
        ) from error
    if not isinstance(found, torch.Tensor):
        raise AlitokError(f"{method} of {_name(codec)} must return a tensor, not {type(found).__name__}.")
    return found


def _name(codec: object) -> str:
    return type(codec).__name__
