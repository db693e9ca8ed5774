"""What a probe needs of a tokenizer, ours or any other: a protocol of two methods.

Enters: anything with `encode` and `decode`. Leaves: the same, asked with care: what it gives is checked, and a fault is
told in a sentence.
Shapes: B images, h image side, G grid side, T codes of an image, D width of a feature, V codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from alitok.core.errors import AlitokError

_BEYOND = 0.25  # how far outside [0, 1] a decoder's pixels may overshoot before they are in another range altogether
_UNSURE = 0.02  # share of an image's codes that rounding may change from call to call
_ASKED_TWICE = 8  # images whose codes are asked for a second time
_LARGEST = 2**31  # codes from here on number no codebook


class Codec(Protocol):
    """Images to codes and back.

    Optional, and used where they are there: `features(images) -> (B, T, D)` floats, what is quantized to the codes;
    `codebook`, the (V, D) tensor of which a code is the nearest row; `codebook_size`, V; `image_size`, h; `grid`, G;
    `device`, where it wants its tensors; of a module that is where its parameters are, of anything else the CPU.
    """

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, h) float32 in [0, 1] -> codes (B, T), whole numbers from 0 on."""
        ...

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T) int64 -> images (B, 3, h, h) floats in [0, 1]."""
        ...


@runtime_checkable
class HasFeatures(Protocol):
    """What a codec may have besides."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, h) float32 in [0, 1] -> features (B, T, D)."""
        ...


@runtime_checkable
class HasNearest(HasFeatures, Protocol):
    """A codec whose codes can be had from its features, so that one pass through its encoder gives both."""

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, T, D) -> codes (B, T)."""
        ...


class Looked(NamedTuple):
    """Images as a codec sees them, on its device: codes (B, T) int64 and, where it has them, features (B, T, D)."""

    codes: torch.Tensor
    features: torch.Tensor | None


def device_of(codec: object) -> torch.device:
    """Where a codec wants its tensors: its `device`, or that of its parameters where it is a module, else the CPU."""
    if not hasattr(codec, "device") and isinstance(codec, nn.Module):
        return next((parameter.device for parameter in codec.parameters()), torch.device("cpu"))
    return torch.device(getattr(codec, "device", "cpu"))


@torch.no_grad()
def look(codec: Codec, images: torch.Tensor) -> Looked:
    """Encode images (B, 3, h, h) that stand on any device; ours pass through the encoder once for both.

    Raises:
        AlitokError: the codec fails, or gives something else than codes and features.
    """
    images = images.to(device_of(codec))
    if isinstance(codec, HasNearest):
        features = codec.features(images)
        return Looked(codec.nearest(features), features)
    codes = _called(codec, "encode", codec.encode, images)
    if codes.ndim != 2 or len(codes) != len(images) or codes.is_floating_point() or codes.is_complex():
        raise AlitokError(
            f"encode of {named(codec)} must give whole numbers (B, T), here ({len(images)}, T), not {codes.dtype} "
            f"{tuple(codes.shape)}."
        )
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < _most(codec):
        raise AlitokError(
            f"encode of {named(codec)} gives codes from {int(codes.min())} to {int(codes.max())}; they must be at "
            f"least 0 and less than {_most(codec):,}."
        )
    if not isinstance(codec, HasFeatures):
        return Looked(codes.long(), None)
    features = _called(codec, "features", codec.features, images)
    if features.ndim != 3 or features.shape[:2] != codes.shape or not features.is_floating_point():
        raise AlitokError(
            f"features of {named(codec)} must give floats (B, T, D), here ({len(images)}, {codes.shape[1]}, D), not "
            f"{features.dtype} {tuple(features.shape)}."
        )
    return Looked(codes.long(), features)


def _most(codec: object) -> int:
    return int(getattr(codec, "codebook_size", _LARGEST))


@torch.no_grad()
def draw(codec: Codec, codes: torch.Tensor, image_size: int) -> torch.Tensor:
    """Decode codes (B, T) int64 that stand on any device to images (B, 3, h, h) in [0, 1], on the codec's.

    Raises:
        AlitokError: the codec fails, or gives something else than images of `image_size` pixels in [0, 1].
    """
    images = _called(codec, "decode", codec.decode, codes.to(device_of(codec)))
    wanted = (len(codes), 3, image_size, image_size)
    if images.shape != wanted or not images.is_floating_point():
        raise AlitokError(
            f"decode of {named(codec)} must give floats {wanted}, not {images.dtype} {tuple(images.shape)}."
        )
    low, high = images.aminmax()
    if not (float(low) >= -_BEYOND and float(high) <= 1 + _BEYOND):  # written so that NaN is refused too
        raise AlitokError(
            f"decode of {named(codec)} gives pixels from {float(low):.3g} to {float(high):.3g}; they must be in [0, 1]."
        )
    return images.float().clamp(0, 1)


def check_codec(codec: Codec, images: torch.Tensor, *, grid: int | None = None) -> tuple[int, int]:
    """Try a codec out on some images (B, 3, h, h), and find where its codes stand.

    Args:
        codec: which.
        images: at least 2.
        grid: G; None = all codes are those of a square grid.

    Returns:
        Grid side and prefix length.

    Raises:
        AlitokError: it lacks a method, gives something else than codes and images, gives other codes when it is
            asked again, or its codes do not fit the grid.
    """
    for name in ("encode", "decode"):
        if not callable(getattr(codec, name, None)):
            raise AlitokError(f"{named(codec)} has no method {name}; a tokenizer needs encode and decode.")
    some = images[:_ASKED_TWICE]
    codes = look(codec, some).codes
    place = _fitting(codec, codes.shape[1], images.shape[-1], grid)
    draw(codec, codes, images.shape[-1])
    alone = [look(codec, image[None]).codes for image in some]
    if any(each.shape[1:] != codes.shape[1:] for each in alone):
        raise AlitokError(f"encode of {named(codec)} gives another number of codes for one image than for several.")
    changed = (torch.cat(alone) != codes).float().mean().item()
    if changed > _UNSURE:
        raise AlitokError(
            f"encode of {named(codec)} gives other codes for the same images when they are asked for one by one "
            f"({changed:.0%} of them); put the model into its evaluation mode."
        )
    return place


def _fitting(codec: object, length: int, image_size: int, grid: int | None) -> tuple[int, int]:
    side = round(length**0.5) if grid is None else grid
    if grid is None and side**2 != length:
        raise AlitokError(
            f"{named(codec)} gives {length} codes, which are no square grid; say how many patches a side it has "
            "(--grid), and the codes in front of them are its prefix."
        )
    if side < 1 or side**2 > length:
        raise AlitokError(
            f"A grid of {side} x {side} patches needs at least {side**2} codes, and {named(codec)} gives {length}; a "
            "map needs a code for each patch."
        )
    if image_size % side:
        raise AlitokError(f"Images of {image_size} pixels cannot be cut into {side} x {side} patches of one size.")
    return side, length - side**2


def _called(codec: object, method: str, function: Callable[[torch.Tensor], Any], given: torch.Tensor) -> torch.Tensor:
    try:
        found = function(given)
    except AlitokError:
        raise
    except Exception as error:  # foreign code may raise anything
        raise AlitokError(
            f"{method} of {named(codec)} fails on {given.dtype} {tuple(given.shape)} with {type(error).__name__}: "
            f"{error}."
        ) from error
    if not isinstance(found, torch.Tensor):
        raise AlitokError(f"{method} of {named(codec)} must give a tensor, not {type(found).__name__}.")
    return found


def named(codec: object) -> str:
    """A codec's name in messages: that of its class."""
    return type(codec).__name__
