"""The feature networks of the perceptual loss, pretrained or trained on the dataset itself.

ConvNeXt, whose logits are compared as in AliTok; LPIPS 0.1 on VGG (Zhang et al. 2018); and `LocalFeatures`, a small
classifier that needs no download and whose distance is LPIPS with uniform weights.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.checkpoint import (
    Tensors,
    load_head,
    load_parts,
    load_strictly,
    patience,
    read_weights,
    require_same,
    save_tensors,
)
from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.errors import AlitokError, error_text
from alitok.core.files import write_json

NetworkName = Literal["convnext", "lpips", "local"]

_CONVNEXT_SIDE = 224
_VGG_TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 among VGG16's layers
_VGG_CHANNELS = (64, 128, 256, 512, 512)
VGG_MIN_SIZE = 16  # px, halved four times
_CONVNEXT_FILE, _VGG_FILE = "convnext_small-0c510722.pth", "vgg16-397923af.pth"
_HEADS_FILE = Path("weights", "v0.1", "vgg.pth")
_LOCAL_GROUPS, _LOCAL_KIND, _LOCAL_WEIGHTS = 8, "local features", "weights"


@config
class PerceptualWeights:
    """Weight files, safetensors or .pth; None = torchvision's cache or download, and the `lpips` package.

    Attributes:
        convnext: torchvision's ConvNeXt-Small, ImageNet.
        vgg: torchvision's VGG16, ImageNet; its classifier may be missing.
        lpips_heads: the five heads of LPIPS 0.1 for VGG.
    """

    convnext: str | None = None
    vgg: str | None = None
    lpips_heads: str | None = None


class NetworkMissingError(AlitokError):
    """A pretrained network is unavailable; `reason` says why, without advice."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class FeatureNetwork(nn.Module, ABC):
    """A network whose features define an image distance; always in evaluation mode, frozen before use as a loss."""

    @abstractmethod
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, h, w) in [0, 1] -> features, each with B in front."""

    @abstractmethod
    def distance(self, features: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean distance of the features of B images from those of B others, a float32 scalar >= 0."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def freeze(self) -> Self:
        """Stop gradients to the parameters."""
        return self.requires_grad_(False).eval()


def unit_difference(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared difference (B, C, h, w) float32 of features normalized over channels; all 0 has a finite gradient."""
    return (F.normalize(features.float(), dim=1, eps=1e-10) - F.normalize(target.float(), dim=1, eps=1e-10)).square()


class ConvNextLogits(FeatureNetwork):
    """The 1000 ImageNet logits of ConvNeXt-Small; random weights until some are loaded."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import convnext_small

        self.network = convnext_small(weights=None)
        self.register_buffer("mean", _per_channel(0.485, 0.456, 0.406), persistent=False)
        self.register_buffer("deviation", _per_channel(0.229, 0.224, 0.225), persistent=False)
        self.freeze()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, h, w) in [0, 1] of any size -> logits (B, 1000) of the images at 224 x 224."""
        resized = F.interpolate(images, (_CONVNEXT_SIDE, _CONVNEXT_SIDE), mode="bilinear", antialias=True)
        return (self.network((resized - self.mean) / self.deviation),)

    def distance(self, features: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean squared difference of the logits."""
        return F.mse_loss(features[0].float(), target[0].float())


class LpipsVgg(FeatureNetwork):
    """LPIPS 0.1 on VGG16; random weights and heads of 1 until some are loaded."""

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg16

        self.features = vgg16(weights=None, init_weights=False).features[: _VGG_TAPS[-1] + 1]
        self.heads = nn.ParameterList(torch.ones(1, channels, 1, 1) for channels in _VGG_CHANNELS)
        self.register_buffer("shift", _per_channel(-0.030, -0.088, -0.188), persistent=False)
        self.register_buffer("scale", _per_channel(0.458, 0.448, 0.450), persistent=False)
        self.freeze()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, h, w) in [0, 1], at least 16 px, -> five features (B, C, h / 2^i, w / 2^i)."""
        if min(images.shape[-2:]) < VGG_MIN_SIZE:
            raise AlitokError(
                f"LPIPS needs images of at least {VGG_MIN_SIZE} px, not {tuple(images.shape[-2:])}; "
                "choose another perceptual network."
            )
        x = (images * 2 - 1 - self.shift) / self.scale
        features = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _VGG_TAPS:
                features.append(x)
        return tuple(features)

    def distance(self, features: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """LPIPS: the mean of `distances`."""
        return self.distances(features, target).mean()

    def distances(self, features: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """LPIPS per image, (B,) float32: weighted by the heads, averaged over positions, summed over layers."""
        layers = [
            (head * unit_difference(a, b)).sum(1).mean((1, 2))
            for head, a, b in zip(self.heads, features, target, strict=True)
        ]
        return torch.stack(layers).sum(0)


def load_network(name: Literal["convnext", "lpips"], weights: PerceptualWeights) -> FeatureNetwork:
    """A pretrained feature network, frozen, on the CPU.

    Raises:
        NetworkMissingError: the weights are unavailable or do not fit.
    """
    if name == "convnext":
        with _with_advice(name, _in_cache(_CONVNEXT_FILE), "convnext"):
            tensors, source = _torchvision_weights("ConvNeXt_Small_Weights", _CONVNEXT_FILE, weights.convnext)
            logits = ConvNextLogits()
            load_strictly(logits.network, tensors, source)
        return logits
    with _with_advice(name, _in_cache(_VGG_FILE), "vgg"):
        tensors, source = _torchvision_weights("VGG16_Weights", _VGG_FILE, weights.vgg)
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("classifier.")}
        lpips = LpipsVgg()
        load_strictly(nn.ModuleDict({"features": lpips.features}), tensors, source)
    with _with_advice(name, f"{_HEADS_FILE} of the package lpips 0.1.4", "lpips_heads"):
        path = Path(weights.lpips_heads) if weights.lpips_heads is not None else _installed_heads()
        heads = {f"lin{index}.model.1.weight": head for index, head in enumerate(lpips.heads)}
        tensors = read_weights(path)
        require_same(heads, tensors, path)
        with torch.no_grad():
            for key, head in heads.items():
                head.copy_(tensors[key])
    return lpips


def vgg_available(weights: PerceptualWeights) -> bool:
    """Whether LPIPS's VGG16 can be read without a download."""
    return weights.vgg is not None or Path(torch.hub.get_dir(), "checkpoints", _VGG_FILE).is_file()


def _per_channel(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue])[None, :, None, None]


def _in_cache(file: str) -> str:
    return f"torchvision's {file} (from {Path(torch.hub.get_dir(), 'checkpoints')}, or downloaded)"


@contextmanager
def _with_advice(name: str, wanted: str, key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # no network, a broken torchvision, a damaged file: each raises something else
        reason = error_text(error).rstrip(".")
        if isinstance(error, ImportError):
            reason += "; pip install 'alitok[perceptual]'"
        raise NetworkMissingError(
            f"The perceptual network '{name}' is unavailable ({reason}): it needs {wanted} or "
            f"perceptual.{key}=FILE; --perceptual local and --perceptual none need no pretrained weights.",
            reason,
        ) from None


def _torchvision_weights(weights: str, file: str, path: str | None) -> tuple[Tensors, Path]:
    if path is not None:
        return read_weights(Path(path)), Path(path)
    from torchvision import models

    choice: Any = getattr(models, weights).IMAGENET1K_V1
    with patience():
        tensors = choice.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    return tensors, Path(torch.hub.get_dir(), "checkpoints", file)


def _installed_heads() -> Path:
    """Found without importing the package, which takes seconds."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package lpips is not installed")
    return Path(spec.submodule_search_locations[0]) / _HEADS_FILE


@config
class LocalFeaturesConfig:
    """Size of the network.

    Attributes:
        width: channels of the first stage, a multiple of 8; each later stage doubles them.
        stages: two convolutions each; all but the first halve the resolution.
    """

    width: int = 32
    stages: int = 3

    def __post_init__(self) -> None:
        require_at_least(self, 1, "width", "stages")
        if self.width % _LOCAL_GROUPS:
            raise AlitokError(f"width must be a multiple of {_LOCAL_GROUPS}, not {self.width}")


@config
class _Saved:
    config: LocalFeaturesConfig
    outputs: int

    def __post_init__(self) -> None:
        require_at_least(self, 1, "outputs")


class LocalFeatures(FeatureNetwork):
    """A convolutional classifier with `outputs` logits; trainable until `freeze` or `load`."""

    def __init__(self, config: LocalFeaturesConfig, outputs: int) -> None:
        super().__init__()
        self.config, self.outputs = config, outputs
        self.stages = nn.ModuleList()
        channels = 3
        for index in range(config.stages):
            out = config.width * 2**index
            stride = 1 if index == 0 else 2
            self.stages.append(nn.Sequential(*_convolution(channels, out, stride), *_convolution(out, out, 1)))
            channels = out
        self.head = nn.Linear(channels, outputs)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, h, w) in [0, 1] -> features (B, width * 2^i, h / 2^i, w / 2^i) of each stage, sizes rounded up."""
        x = images * 2 - 1
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) in [0, 1] -> (B, outputs)."""
        return self.head(self(images)[-1].mean((2, 3)))

    def distance(self, features: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """Squared difference of unit-length features, summed over channels, averaged over positions and stages."""
        stages = [unit_difference(a, b).sum(1).mean() for a, b in zip(features, target, strict=True)]
        return torch.stack(stages).mean()

    def save(self, directory: Path) -> None:
        """Write `weights.safetensors`, then `config.json`."""
        save_tensors(directory / f"{_LOCAL_WEIGHTS}.safetensors", self.state_dict())
        saved = _Saved(config=self.config, outputs=self.outputs)
        write_json(directory / "config.json", {"kind": _LOCAL_KIND, **to_dict(saved)})

    @classmethod
    def load(cls, directory: Path) -> LocalFeatures:
        """Read what `save` wrote; the network is frozen and on the CPU.

        Raises:
            AlitokError: a file is missing, damaged, or of something else.
        """
        path = directory / "config.json"
        head = load_head(path, _LOCAL_KIND)
        saved = from_dict(_Saved, {key: value for key, value in head.items() if key != "kind"}, str(path))
        network = cls(saved.config, saved.outputs)
        load_parts(directory, {_LOCAL_WEIGHTS: network})
        return network.freeze()


def _convolution(channels: int, out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, padding=1), nn.GroupNorm(_LOCAL_GROUPS, out), nn.GELU()]
