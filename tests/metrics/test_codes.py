import math
from collections import Counter

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.codes import CodeUsage, codebook_use, perplexity


def test_use_and_perplexity_of_known_draws():
    codes = torch.tensor([[0, 0, 1, 1], [2, 2, 5, 5]])
    assert codebook_use(codes, 8) == 0.5
    assert perplexity(codes, 8) == pytest.approx(4)
    assert perplexity(torch.zeros(3, 7, dtype=torch.int64), 8) == pytest.approx(1)
    assert perplexity(torch.arange(8), 8) == pytest.approx(8)


def test_perplexity_is_exp_of_the_entropy():
    codes = torch.randint(0, 20, (30, 7), generator=torch.Generator().manual_seed(0)) ** 2 // 20
    shares = [count / codes.numel() for count in Counter(codes.flatten().tolist()).values()]
    assert perplexity(codes, 20) == pytest.approx(math.prod(share**-share for share in shares))
    assert codebook_use(codes, 20) == len(shares) / 20


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_a_stream_in_pieces_counts_like_the_whole_and_counters_add(dtype):
    codes = torch.randint(0, 11, (40, 6), generator=torch.Generator().manual_seed(1)).to(dtype)
    whole, left, right = CodeUsage(16), CodeUsage(16), CodeUsage(16)
    whole.update(codes)
    left.update(codes[:7])
    left.update(codes[7:8])
    left.update(codes[:0])
    right.update(codes[8:])
    both = left + right
    assert torch.equal(both.counts, whole.counts)
    assert (both.use, both.perplexity) == (whole.use, whole.perplexity)
    assert int(left.counts.sum()) == 8 * 6  # adding leaves the parts as they were


def test_nothing_drawn_yet():
    assert CodeUsage(4).use == 0
    assert CodeUsage(4).perplexity == 0


@pytest.mark.parametrize("code", [-1, 8])
def test_codes_of_another_codebook_are_refused_and_not_counted(code):
    usage = CodeUsage(8)
    with pytest.raises(AlitokError, match="codebook of 8 entries"):
        usage.update(torch.tensor([0, code]))
    assert usage.use == 0
