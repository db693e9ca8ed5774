import math

import pytest
import torch

from alitok.metrics.predictability import bits_per_image, code_losses


def test_loss_and_right_guesses_of_single_codes():
    logits = 3 * torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    codes = torch.randint(0, 6, (4, 5), generator=torch.Generator().manual_seed(1))
    codes[0] = logits[0].argmax(-1)
    nats, right = code_losses(logits, codes)
    assert (nats.shape, right.shape) == ((4, 5), (4, 5))
    for t in range(5):
        for image in range(4):
            values, code = logits[image, t].tolist(), int(codes[image, t])
            loss = math.log(sum(math.exp(value) for value in values)) - values[code]
            assert nats[image, t].item() == pytest.approx(loss, rel=1e-5)
            assert bool(right[image, t]) is (values[code] == max(values))
    assert 0 < right.float().mean() < 1


def test_half_precision_is_summed_in_full():
    logits = torch.randn(2, 3, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes = torch.randint(0, 5000, (2, 3), generator=torch.Generator().manual_seed(1))
    nats, _ = code_losses(logits, codes)
    assert nats.dtype == torch.float32
    assert torch.allclose(nats, code_losses(logits.float(), codes)[0], rtol=1e-6)


def test_bits_of_an_image_are_those_of_prefix_and_grid():
    # positions that are coded at probabilities 1/2, 1/4, 1/8, 1: 1 + 2 + 3 + 0 bits
    nats = -torch.tensor([0.5, 0.25, 0.125, 1.0]).log()
    for prefix, of_grid in enumerate([6, 5, 3, 0, 0]):
        assert bits_per_image(nats, prefix) == pytest.approx((6, of_grid), abs=1e-6)


def test_bits_of_a_batch_equal_the_mean_code_length_of_its_images():
    logits = torch.randn(7, 6, 4, generator=torch.Generator().manual_seed(2))
    codes = torch.randint(0, 4, (7, 6), generator=torch.Generator().manual_seed(3))
    lengths = [
        [-math.log2(logits[image, t].softmax(-1)[codes[image, t]].item()) for t in range(6)] for image in range(7)
    ]
    total, of_grid = bits_per_image(code_losses(logits, codes)[0].mean(0), 2)
    assert total == pytest.approx(sum(map(sum, lengths)) / 7, rel=1e-5)
    assert of_grid == pytest.approx(sum(sum(row[2:]) for row in lengths) / 7, rel=1e-5)
