"""A small feature network for the perceptual loss that needs no download: a classifier trained on the dataset itself.

Its distance is LPIPS (Zhang et al. 2018) with uniform weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from alitok.core.checkpoint import load_head, load_parts, save_tensors
from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.errors import AlitokError
from alitok.core.files import write_json
from alitok.losses.perceptual import FeatureNetwork, unit_difference

_GROUPS = 8  # of the group norm
_KIND = "local features"
_WEIGHTS = "weights"


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
        if self.width % _GROUPS:
            raise AlitokError(f"width must be a multiple of {_GROUPS}, not {self.width}")


@config
class _Saved:
    """The fields of `config.json` beside its kind."""

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
        save_tensors(directory / f"{_WEIGHTS}.safetensors", self.state_dict())
        saved = _Saved(config=self.config, outputs=self.outputs)
        write_json(directory / "config.json", {"kind": _KIND, **to_dict(saved)})

    @classmethod
    def load(cls, directory: Path) -> LocalFeatures:
        """Read what `save` wrote; the network is frozen and on the CPU.

        Raises:
            AlitokError: a file is missing, damaged, or of something else.
        """
        path = directory / "config.json"
        head = load_head(path, _KIND)
        saved = from_dict(_Saved, {key: value for key, value in head.items() if key != "kind"}, str(path))
        network = cls(saved.config, saved.outputs)
        load_parts(directory, {_WEIGHTS: network})
        return network.freeze()


def _convolution(channels: int, out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, padding=1), nn.GroupNorm(_GROUPS, out), nn.GELU()]
