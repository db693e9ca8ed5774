"""A classifier of the images at hand that judges others, where Inception's weights cannot be had or say little.

Enter: images (B, 3, h, h) uint8. Leave: features of its last stage and the probabilities of its classes. It was
trained on the real images alone, see `alitok.run.classifier`; what the Frechet distance in its features says is no
FID, and means something only beside another number by the same judge.
Shapes: B images, D features, C classes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core import images as pixels
from alitok.core.checkpoint import fingerprint, load_head
from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, write_json
from alitok.losses.local_features import LocalFeatures
from alitok.metrics.features import Features, full_precision

MOST_SIDE = 64  # pixels a side that the network sees at most
_KIND = "judge"
_NETWORK = "network"


@config
class _Saved:
    """What `config.json` holds besides its kind."""

    classes: tuple[str, ...]
    size: int
    val_accuracy: float

    def __post_init__(self) -> None:
        require_at_least(self, 1, "size")
        require_at_least(self, 0, "val_accuracy")


class Judge(nn.Module):
    """A frozen classifier; always in evaluation mode and without gradients.

    Args:
        network: of an output for each class, trained on images that `seen` had made small.
        classes: the class names.
        size: pixels a side of the images it judges.
        val_accuracy: share of validation images whose class it tells; NaN before that was measured.

    Attributes:
        name: with a hash of all that decides what it says.
        weights: that hash.
        distance: what the Frechet distance in its features is called.
    """

    distance = "Frechet distance in classifier features"

    def __init__(
        self, network: LocalFeatures, classes: tuple[str, ...], size: int, val_accuracy: float = math.nan
    ) -> None:
        super().__init__()
        assert network.outputs == len(classes), (network.outputs, len(classes))
        self.network = network.freeze()
        self.classes, self.size, self.val_accuracy = classes, size, val_accuracy
        about = {"network": to_dict(network.config), "classes": list(classes), "size": size}
        self.weights = fingerprint(network.state_dict(), about)
        self.name = f"classifier-{self.weights}"

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Features:
        """Images (B, 3, size, size) uint8, on the network's device, to the mean of the last stage's features.

        Computed in float32 whatever surrounds the call: neither autocast nor TF32 reaches it.

        Raises:
            AlitokError: the images have another size.
        """
        assert images.dtype == torch.uint8, images.dtype
        assert images.ndim == 4, images.shape
        assert images.shape[1] == 3, images.shape
        if images.shape[2:] != (self.size, self.size):
            raise AlitokError(
                f"The classifier was trained on images of {self.size} pixels a side and cannot judge images of "
                f"{images.shape[3]} x {images.shape[2]}; give images of that size."
            )
        with full_precision(images.device):
            pool = self.network(pixels.to_float(seen(images)))[-1].mean((2, 3))
            return Features(pool, None, self.network.head(pool).softmax(1))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked of the module around it."""
        return super().train(False)

    def save(self, directory: Path) -> None:
        """Write the directory, whole or not at all: `network/` and `config.json`."""
        saved = _Saved(classes=self.classes, size=self.size, val_accuracy=self.val_accuracy)
        with atomic_path(directory) as whole:
            whole.mkdir()
            self.network.save(whole / _NETWORK)
            write_json(whole / "config.json", {"kind": _KIND, **to_dict(saved)})

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote, on the CPU.

        Raises:
            AlitokError: a file is missing, damaged, or not a judge's.
        """
        path = directory / "config.json"
        head = load_head(path, _KIND)
        saved = from_dict(_Saved, {key: value for key, value in head.items() if key != "kind"}, str(path))
        network = LocalFeatures.load(directory / _NETWORK)
        if network.outputs != len(saved.classes):
            raise AlitokError(
                f"{path} names {len(saved.classes)} classes and its network has {network.outputs}; delete {directory}."
            )
        return cls(network, saved.classes, saved.size, saved.val_accuracy)


def seen(images: torch.Tensor) -> torch.Tensor:
    """What the network sees of images (B, 3, h, h) uint8: those above 64 pixels a side are averaged down to that.

    The small network is to see whole things, not their grain, in bounded time. It is trained on what leaves here.
    """
    if images.shape[-1] <= MOST_SIDE:
        return images
    return pixels.to_uint8(F.adaptive_avg_pool2d(pixels.to_float(images), MOST_SIDE))
