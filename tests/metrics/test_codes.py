import math
from collections import Counter

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.codes import CodeUsage, UsageWindow


def usage_of(codes, codebook_size):
    usage = CodeUsage(codebook_size)
    usage.update(codes)
    return usage


def test_use_and_perplexity_of_known_draws():
    codes = torch.tensor([[0, 0, 1, 1], [2, 2, 5, 5]])
    assert usage_of(codes, 8).use == 0.5
    assert usage_of(codes, 8).perplexity == pytest.approx(4)
    assert usage_of(torch.zeros(3, 7, dtype=torch.int64), 8).perplexity == pytest.approx(1)
    assert usage_of(torch.arange(8), 8).perplexity == pytest.approx(8)


def test_perplexity_is_exp_of_the_entropy():
    codes = torch.randint(0, 20, (30, 7), generator=torch.Generator().manual_seed(0)) ** 2 // 20
    shares = [count / codes.numel() for count in Counter(codes.flatten().tolist()).values()]
    assert usage_of(codes, 20).perplexity == pytest.approx(math.prod(share**-share for share in shares))
    assert usage_of(codes, 20).use == len(shares) / 20


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_a_stream_in_pieces_counts_like_the_whole(dtype):
    codes = torch.randint(0, 11, (40, 6), generator=torch.Generator().manual_seed(1)).to(dtype)
    pieces = CodeUsage(16)
    for piece in (codes[:7], codes[7:8], codes[:0], codes[8:]):
        pieces.update(piece)
    whole = usage_of(codes, 16)
    assert torch.equal(pieces.counts, whole.counts)
    assert (pieces.use, pieces.perplexity) == (whole.use, whole.perplexity)


def test_nothing_drawn_yet():
    assert CodeUsage(4).use == 0
    assert CodeUsage(4).perplexity == 0


@pytest.mark.parametrize("code", [-1, 8])
def test_codes_of_another_codebook_are_refused_and_not_counted(code):
    usage = CodeUsage(8)
    with pytest.raises(AlitokError, match="codebook of 8 entries"):
        usage.update(torch.tensor([0, code]))
    assert usage.use == 0


def test_a_window_reports_the_last_full_one_and_warns_of_a_fall_once(monkeypatch):
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
