import math
from collections import Counter

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.codes import CodeUsage, UsageWindow, bits_per_image, code_losses


def usage_of(codes, codebook_size):
    usage = CodeUsage(codebook_size)
    usage.update(codes)
    return usage


def test_use_and_perplexity_of_known_codes():
    codes = torch.tensor([[0, 0, 1, 1], [2, 2, 5, 5]])
    assert usage_of(codes, 8).use == 0.5
    assert usage_of(codes, 8).perplexity == pytest.approx(4)
    assert usage_of(torch.zeros(3, 7, dtype=torch.int64), 8).perplexity == pytest.approx(1)
    assert usage_of(torch.arange(8), 8).perplexity == pytest.approx(8)


def test_perplexity_is_exp_of_the_entropy():
    codes = torch.randint(0, 20, (30, 7), generator=torch.Generator().manual_seed(0)) ** 2 // 20
    fractions = [count / codes.numel() for count in Counter(codes.flatten().tolist()).values()]
    assert usage_of(codes, 20).perplexity == pytest.approx(math.prod(p**-p for p in fractions))
    assert usage_of(codes, 20).use == len(fractions) / 20


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_counting_in_pieces_equals_counting_at_once(dtype):
    codes = torch.randint(0, 11, (40, 6), generator=torch.Generator().manual_seed(1)).to(dtype)
    pieces = CodeUsage(16)
    for piece in (codes[:7], codes[7:8], codes[:0], codes[8:]):
        pieces.update(piece)
    whole = usage_of(codes, 16)
    assert torch.equal(pieces.counts, whole.counts)
    assert (pieces.use, pieces.perplexity) == (whole.use, whole.perplexity)


def test_no_codes_yet():
    assert CodeUsage(4).use == 0
    assert CodeUsage(4).perplexity == 0


@pytest.mark.parametrize("code", [-1, 8])
def test_codes_outside_the_codebook_are_rejected_and_not_counted(code):
    usage = CodeUsage(8)
    with pytest.raises(AlitokError, match="codebook of 8 entries"):
        usage.update(torch.tensor([0, code]))
    assert usage.use == 0


def test_the_last_full_window_is_reported_and_a_drop_warned_of_once(monkeypatch):
    monkeypatch.setattr("alitok.metrics.codes._SETTLING", 0)
    window = UsageWindow(codebook_size=4, window=2, alarm=0.8)
    window.update(torch.tensor([5, 0, 0, 0]))
    assert window.report() == {}
    window.update(torch.tensor([0, 5, 5, 5]))
    assert window.report() == pytest.approx({"codebook_use": 1.0, "codebook_perplexity": 4.0})
    window.update(torch.tensor([9, 0, 0, 0]))  # half of the next window changes nothing
    assert window.report() == pytest.approx({"codebook_use": 1.0, "codebook_perplexity": 4.0})
    assert window.fallen() is None
    window.update(torch.tensor([0, 9, 0, 0]))
    assert window.report() == pytest.approx({"codebook_use": 0.5, "codebook_perplexity": 2.0})
    assert "50.0% of the codebook was in use over the last 2 steps, after 100.0%" in window.fallen()
    assert window.fallen() is None


def test_loss_and_top_1_of_each_code():
    logits = 3 * torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    codes = torch.randint(0, 6, (4, 5), generator=torch.Generator().manual_seed(1))
    codes[0] = logits[0].argmax(-1)
    nats, correct = code_losses(logits, codes)
    assert (nats.shape, correct.shape) == ((4, 5), (4, 5))
    for t in range(5):
        for image in range(4):
            values, code = logits[image, t].tolist(), int(codes[image, t])
            loss = math.log(sum(math.exp(value) for value in values)) - values[code]
            assert nats[image, t].item() == pytest.approx(loss, rel=1e-5)
            assert bool(correct[image, t]) is (values[code] == max(values))
    assert 0 < correct.float().mean() < 1


def test_half_precision_losses_are_float32():
    logits = torch.randn(2, 3, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes = torch.randint(0, 5000, (2, 3), generator=torch.Generator().manual_seed(1))
    nats, _ = code_losses(logits, codes)
    assert nats.dtype == torch.float32
    assert torch.allclose(nats, code_losses(logits.float(), codes)[0], rtol=1e-6)


def test_bits_per_image_splits_prefix_and_grid():
    # positions with probabilities 1/2, 1/4, 1/8, 1: 1 + 2 + 3 + 0 bits
    nats = -torch.tensor([0.5, 0.25, 0.125, 1.0]).log()
    for prefix, of_grid in enumerate([6, 5, 3, 0, 0]):
        assert bits_per_image(nats, prefix) == pytest.approx((6, of_grid), abs=1e-6)
