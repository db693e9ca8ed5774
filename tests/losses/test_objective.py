import pytest
import torch

from alitok.losses.objective import LossWeights, auxiliary_mse, tokenizer_losses


def test_total_is_the_weighted_sum_of_the_named_terms():
    images, rebuilt, strip = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.rand(2, 3, 2, 8)
    quantizer = torch.tensor(0.7)
    weights = LossWeights(mse=2.0, quantizer=0.5, auxiliary=3.0)
    result = tokenizer_losses(images, rebuilt, weights, patch_size=2, prefix_strip=strip, quantizer_loss=quantizer)
    mse = (images - rebuilt).square().mean()
    auxiliary = (images[:, :, :2] - strip).square().mean()
    assert result["loss"].item() == pytest.approx((2 * mse + 0.35 + 3 * auxiliary).item(), rel=1e-5)
    assert set(result) == {"loss", "mse", "quantizer", "auxiliary"}


def test_stage2_has_the_mse_alone():
    images, rebuilt = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert set(tokenizer_losses(images, rebuilt, LossWeights(), patch_size=2)) == {"loss", "mse"}


def test_released_strip_repeats_the_first_patch_and_a_short_one_covers_the_first_patches():
    images = torch.rand(2, 3, 8, 8)
    row = images[:, :, :2]
    released = torch.cat([row[..., :2], row], dim=-1)  # five patches for four cells
    assert auxiliary_mse(images, released, 2) == 0
    assert auxiliary_mse(images, row[..., :4], 2) == 0
    assert auxiliary_mse(images, row.flip(-1), 2) > 0
