"""How near a reconstruction is to its picture.

Enter: pictures and their reconstructions, both (B, 3, h, w) in [0, 1]. Leaves: one number per picture, (B,).
"""

from __future__ import annotations

import torch


def psnr(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture in decibels, for a peak of 1.

    `-10 log10(mse)`, the mean squared error taken over the channels and pixels of one picture. The PSNR of a set
    is the mean of these numbers, `psnr(...).mean()`; the PSNR of the mean error would be another, lower number.
    A picture that equals its reconstruction has no error and gives inf, and so does the mean of a set that holds
    such a picture: no cap is invented.

    Args:
        images: (B, 3, h, w) float in [0, 1].
        reconstructions: the same shape and range.

    Returns:
        (B,) float32 decibels.
    """
    assert images.shape == reconstructions.shape, (images.shape, reconstructions.shape)
    for pictures in (images, reconstructions):
        assert pictures.is_floating_point(), f"{pictures.dtype} pixels do not have a peak of 1"
    error = (images.float() - reconstructions.float()).square().flatten(1).mean(1)
    return -10 * error.log10()
