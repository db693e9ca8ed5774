"""Tokenizers of others, well-behaved or not: each fault is told in one sentence."""

import dataclasses

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.codec import check_codec, decode, encode
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import TokenizerCodec
from tiny import TOKENIZER

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Good:
    """Sixteen codes of four levels."""

    def encode(self, images):
        return (torch.nn.functional.avg_pool2d(images.mean(1), 2).flatten(1) * 40).long() % 4

    def decode(self, codes):
        return (codes.view(-1, 1, 4, 4).expand(-1, 3, -1, -1) / 4).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_a_good_one_passes_and_says_where_its_codes_stand():
    assert check_codec(Good(), IMAGES) == (4, 0)
    assert check_codec(Good(), IMAGES, grid=2) == (2, 12)


def changed(**methods):
    return type("Changed", (Good,), methods)()


def batch_norm(self, images):
    return Good.encode(self, images - images.mean() + 1)


def fails(self, images):
    raise RuntimeError("no such layer")


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (object(), "object has no method encode; a tokenizer needs encode and decode"),
        (changed(decode=None), "has no method decode"),
        (changed(encode=lambda self, x: [1, 2]), "encode of Changed must return a tensor, not list"),
        (changed(encode=lambda self, x: Good.encode(self, x).float()), r"integers \(B, T\), here \(6, T\), not"),
        (changed(encode=lambda self, x: Good.encode(self, x).view(-1, 4, 4)), r"int64 \(6, 4, 4\)"),
        (changed(encode=lambda self, x: Good.encode(self, x)[:1]), r"int64 \(1, 16\)"),
        (changed(encode=lambda self, x: Good.encode(self, x) - 1), "codes from -1 to 2; they must be at least 0"),
        (changed(encode=lambda self, x: Good.encode(self, x) + 2**31), "less than 2,147,483,648"),
        (changed(codebook_size=3), "codes from 0 to 3; they must be at least 0 and less than 3"),
        (changed(encode=fails), r"encode of Changed fails on torch.float32 \(6, 3, 8, 8\) with RuntimeError: no such"),
        (changed(encode=batch_norm), "other codes for the same images .* evaluation mode"),
        (changed(encode=lambda self, x: torch.randint(0, 4, (len(x), 16))), "evaluation mode"),
        (changed(encode=lambda self, x: Good.encode(self, x)[:, : 4 * len(x)]), "another number of codes"),
        (
            changed(encode=lambda self, x: Good.encode(self, x)[:, :15]),
            r"15 codes, which do not form a square grid.*--grid",
        ),
        (changed(decode=lambda self, c: torch.zeros(len(c), 3, 4, 4)), r"floats \(6, 3, 8, 8\), not .* \(6, 3, 4, 4\)"),
        (changed(decode=lambda self, c: torch.zeros(len(c), 3, 8, 8).byte()), "must return floats .* not torch.uint8"),
        (changed(decode=lambda self, c: 2 * Good.decode(self, c) - 1), "pixels from -1 to 0.5; they must be in"),
        (changed(decode=lambda self, c: Good.decode(self, c) / 0), "pixels from nan to nan"),
        (changed(features=lambda self, x: torch.zeros(len(x), 9, 2)), r"features of Changed .* \(6, 16, D\), not"),
    ],
)
def test_each_fault_is_reported(codec, said):
    with pytest.raises(AlitokError, match=said):
        check_codec(codec, IMAGES)


@pytest.mark.parametrize(
    ("grid", "said"), [(5, "at least 25 codes"), (0, "a code for each patch"), (3, "cannot be cut into 3 x 3")]
)
def test_a_grid_that_does_not_fit_is_refused(grid, said):
    with pytest.raises(AlitokError, match=said):
        check_codec(Good(), IMAGES, grid=grid)


def test_pixels_that_overshoot_a_little_are_clamped():
    bright = changed(decode=lambda self, codes: 1.4 * Good.decode(self, codes) - 0.1)
    codes = encode(bright, IMAGES).codes
    assert decode(bright, codes, 8).aminmax() == (0.0, pytest.approx(0.95))


@torch.no_grad()
def test_ours_gives_features_and_codes_of_one_pass():
    tokenizer = Tokenizer(dataclasses.replace(TOKENIZER, image_size=8, patch_size=2)).eval()
    torch.nn.init.normal_(tokenizer.quantizer.codebook)
    for stage in ("stage1", "stage2"):
        codec = TokenizerCodec(tokenizer, stage)
        assert check_codec(codec, IMAGES, grid=4) == (4, 4)
        seen = encode(codec, IMAGES)
        assert torch.equal(seen.codes, tokenizer.encode(IMAGES))
        assert torch.equal(tokenizer.quantizer.nearest(seen.features), seen.codes)
        assert torch.equal(decode(codec, seen.codes, 8), tokenizer.decode(seen.codes, stage))
