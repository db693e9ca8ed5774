import math
import sys

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.reconstruction import psnr, ssim


def test_psnr_equals_the_definition_for_each_image():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 5, 7, generator=generator)
    rebuilt = (
        images + torch.tensor([0.1, 0.01, 0.2]).view(3, 1, 1, 1) * torch.randn(3, 3, 5, 7, generator=generator)
    ).clamp(0, 1)
    for got, a, b in zip(psnr(images, rebuilt), images, rebuilt, strict=True):
        pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
        error = sum((x - y) ** 2 for x, y in pairs) / len(pairs)
        assert got.item() == pytest.approx(20 * math.log10(1 / math.sqrt(error)), abs=1e-3)


def test_only_an_identical_image_has_infinite_psnr():
    images = torch.rand(2, 3, 4, 4)
    rebuilt = images.clone()
    rebuilt[1, 0, 0, 0] += 0.5
    assert psnr(images, rebuilt).isinf().tolist() == [True, False]


def test_half_precision_is_measured_in_float32():
    images = torch.rand(2, 3, 8, 8).bfloat16()
    rebuilt = (images.float() * 0.9).bfloat16()
    assert torch.equal(psnr(images, rebuilt), psnr(images.float(), rebuilt.float()))


def test_uint8_and_mismatched_shapes_are_rejected():
    with pytest.raises(AssertionError):
        psnr(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(AssertionError):
        psnr(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))


def _scikit_map(image, other):
    """scikit-image's SSIM map with a Gaussian window, of an image mirrored at its edges."""
    from skimage.metrics import structural_similarity

    padded = [
        np.pad(x.numpy().astype(np.float64), ((0, 0), (20, 20), (20, 20)), mode="reflect") for x in (image, other)
    ]
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, full = structural_similarity(*padded, data_range=1.0, channel_axis=0, full=True, **settings)
    return full[:, 20:-20, 20:-20]


def test_ssim_equals_scikit_images():
    images = torch.nn.functional.interpolate(torch.rand(3, 3, 8, 9), (40, 50), mode="bilinear")
    rebuilt = (images + torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1) * torch.randn(3, 3, 40, 50)).clamp(0, 1)
    wanted = [_scikit_map(a, b).mean() for a, b in zip(images, rebuilt, strict=True)]
    assert torch.allclose(ssim(images, rebuilt), torch.tensor(wanted, dtype=torch.float32), atol=2e-5)
    assert wanted[0] > 0.7 > 0.4 > wanted[2]


def test_ssim_is_per_image_and_one_for_equal_images():
    images = torch.rand(2, 3, 11, 12)
    rebuilt = images.clone()
    rebuilt[1] = 1 - rebuilt[1]
    found = ssim(images, rebuilt)
    assert found[0].item() == pytest.approx(1, abs=1e-6)
    assert found[1].item() < 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ssim(images, rebuilt), found)


def test_missing_pixels_or_torchmetrics_are_reported(monkeypatch):
    with pytest.raises(AlitokError, match="at least 11 x 11 px, not 10 x 32"):
        ssim(torch.rand(1, 3, 10, 32), torch.rand(1, 3, 10, 32))
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(AlitokError, match=r"pip install 'alitok\[eval\]'"):
        ssim(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))
