"""Pixels in groups of one size: the same bytes wherever an image stands and whatever stands beside it."""

import dataclasses

import pytest
import torch

from alitok.apps.serve.even import EvenDecoder, group_size
from alitok.sampling.decoding import PixelDecoder
from alitok.tokenizer import DecoderConfig, Tokenizer


def test_pixels_do_not_depend_on_place_number_or_neighbours(pipeline):
    decoder = EvenDecoder(pipeline.tokenizer, "fp32")
    assert decoder.group == 8
    codes = torch.randint(0, 32, (1, 12))
    alone = decoder(codes)
    assert torch.equal(alone, PixelDecoder(pipeline.tokenizer, "fp32")(codes.expand(8, -1))[:1])
    for count in (1, 2, 7, 8, 9, 20):
        for place in {0, count // 2, count - 1}:
            batch = torch.randint(0, 32, (count, 12))
            batch[place] = codes[0]
            images = decoder(batch)
            assert images.shape == (count, 3, 12, 12)
            assert torch.equal(images[place], alone[0])


@pytest.mark.parametrize(("width", "group"), [(16, 8), (256, 2), (512, 1)])
def test_large_decoders_draw_one_at_a_time(pipeline, width, group):
    stage2 = DecoderConfig(width=width, layers=2, heads=2)
    tokenizer = Tokenizer(dataclasses.replace(pipeline.tokenizer.config, stage2=stage2)).eval()
    assert group_size(tokenizer) == group
