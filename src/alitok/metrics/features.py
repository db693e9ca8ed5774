"""What every feature network says of images, and what it is known by.

Enter: images (B, 3, h, w) uint8. Leave: `Features`. Numbers of two networks are never compared, so each has a name;
and only the distance in the features of the one network that published numbers are made with is called FID.
Shapes: B images, D features, S features with places, C classes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch


class Features(NamedTuple):
    """What a network says of B images, all float32.

    Attributes:
        pool: (B, D) features of whole images.
        spatial: (B, S) features that know where in the image they are; None where the network has none.
        probabilities: (B, C) of its classes, each row of sum 1.
    """

    pool: torch.Tensor
    spatial: torch.Tensor | None
    probabilities: torch.Tensor


class FeatureExtractor(Protocol):
    """A frozen feature network.

    Attributes:
        name: of the network and its weights; statistics of two names are never compared.
        weights: a hash of its weights.
        distance: what the Frechet distance in its features is called, such as "FID".
    """

    name: str
    weights: str
    distance: str

    def __call__(self, images: torch.Tensor) -> Features:
        """The features of images (B, 3, h, w) uint8 on the network's device, without gradients."""
        ...
