"""PSNR and SSIM of reconstructions, (B,) for images and reconstructions (B, 3, h, w) float in [0, 1]."""

from __future__ import annotations

import torch

from alitok.core.errors import AlitokError
from alitok.metrics.features import full_precision

SSIM_WINDOW, _SIGMA = 11, 1.5  # px; smaller images have no SSIM


def psnr(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,) float32, for a peak of 1; inf if perfect.

    The PSNR of a set is the mean of these; the PSNR of the mean error would be lower.
    """
    _require_pair(images, reconstructions)
    error = (images.float() - reconstructions.float()).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, (B,) float32 in [-1, 1], by torchmetrics (Wang et al. 2004).

    Gaussian window 11 x 11 with sigma 1.5, constants (0.01)^2 and (0.03)^2, biased moments, mean over channels and all
    pixels. Edges are mirrored; scikit-image leaves out the 5 px at the edge instead, so its numbers differ slightly.

    Raises:
        AlitokError: torchmetrics is not installed, or the images are smaller than the window.
    """
    _require_pair(images, reconstructions)
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise AlitokError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} px, not "
            f"{images.shape[-2]} x {images.shape[-1]}; leave SSIM out."
        )
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise AlitokError("SSIM needs torchmetrics; install it with pip install 'alitok[eval]'.") from None
    with full_precision(images.device):
        similarity = structural_similarity_index_measure(
            reconstructions.float(),
            images.float(),
            sigma=_SIGMA,
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
