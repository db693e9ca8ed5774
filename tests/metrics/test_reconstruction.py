import math

import pytest
import torch

from alitok.metrics.reconstruction import psnr


def test_psnr_is_decibels_per_picture():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 5, 7, generator=generator)
    rebuilt = (
        images + torch.tensor([0.1, 0.01, 0.2]).view(3, 1, 1, 1) * torch.randn(3, 3, 5, 7, generator=generator)
    ).clamp(0, 1)
    for got, a, b in zip(psnr(images, rebuilt), images, rebuilt, strict=True):
        pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
        error = sum((x - y) ** 2 for x, y in pairs) / len(pairs)
        assert got.item() == pytest.approx(20 * math.log10(1 / math.sqrt(error)), abs=1e-3)


def test_a_constant_error_of_a_tenth_is_20_decibels_and_twice_the_error_6_less():
    images = torch.full((2, 3, 4, 4), 0.5)
    rebuilt = torch.stack([images[0] + 0.1, images[1] - 0.2])
    assert torch.allclose(psnr(images, rebuilt), torch.tensor([20.0, 20 - 20 * math.log10(2)]), atol=1e-4)


def test_only_the_identical_picture_is_infinite():
    images = torch.rand(2, 3, 4, 4)
    rebuilt = images.clone()
    rebuilt[1, 0, 0, 0] += 0.5
    assert psnr(images, rebuilt).isinf().tolist() == [True, False]


def test_half_precision_is_measured_in_full():
    images = torch.rand(2, 3, 8, 8).bfloat16()
    rebuilt = (images.float() * 0.9).bfloat16()
    assert torch.equal(psnr(images, rebuilt), psnr(images.float(), rebuilt.float()))


def test_bytes_and_other_shapes_are_refused():
    with pytest.raises(AssertionError):
        psnr(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(AssertionError):
        psnr(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
