"""How near a reconstruction is to its image.

Enter: images and their reconstructions, both (B, 3, h, w) in [0, 1]. Leaves: one number per image, (B,).
"""

from __future__ import annotations

import torch

from alitok.core.errors import AlitokError
from alitok.metrics.features import full_precision

SSIM_WINDOW, _DEVIATION = 11, 1.5  # pixels; smaller images have no SSIM


def psnr(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in decibels, for a peak of 1.

    `-10 log10(mse)`, the mean squared error taken over the channels and pixels of one image. The PSNR of a set
    is the mean of these numbers, `psnr(...).mean()`; the PSNR of the mean error would be another, lower number.
    An image that equals its reconstruction has no error and gives inf, and so does the mean of a set that holds
    such an image: no cap is invented.

    Args:
        images: (B, 3, h, w) float in [0, 1].
        reconstructions: the same shape and range.

    Returns:
        (B,) float32 decibels.
    """
    _require_pair(images, reconstructions)
    error = (images.float() - reconstructions.float()).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, for a peak of 1: torchmetrics' with a Gaussian window.

    The window has 11 x 11 pixels and a deviation of 1.5, the constants are (0.01)^2 and (0.03)^2, moments are not
    corrected for the window's size, and the channels count alike. Images are mirrored at their edges (the edge itself
    not repeated) and the mean is over all pixels; scikit-image, with the same window, leaves out the 5 pixels at the
    edge, so its numbers differ a little.

    Args:
        images: (B, 3, h, w) float in [0, 1], h and w at least 11.
        reconstructions: the same shape and range.

    Returns:
        (B,) float32 in [-1, 1], 1 for equal images.

    Raises:
        AlitokError: torchmetrics is missing, or the images are smaller than the window.

    Source: Wang et al. 2004.
    """
    _require_pair(images, reconstructions)
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise AlitokError(
            f"SSIM looks through a window of {SSIM_WINDOW} pixels; images of {images.shape[-2]} x {images.shape[-1]} "
            "are smaller than that, so leave SSIM out."
        )
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise AlitokError("SSIM needs torchmetrics; install it with pip install 'alitok[eval]'.") from None
    with full_precision(images.device):
        similarity = structural_similarity_index_measure(
            reconstructions.float(),
            images.float(),
            sigma=_DEVIATION,
            kernel_size=SSIM_WINDOW,
            reduction="none",
            data_range=1.0,
        )
    assert isinstance(similarity, torch.Tensor)
    return similarity


def _require_pair(images: torch.Tensor, reconstructions: torch.Tensor) -> None:
    assert images.shape == reconstructions.shape, (images.shape, reconstructions.shape)
    for each in (images, reconstructions):
        assert each.is_floating_point(), f"{each.dtype} pixels do not have a peak of 1"
