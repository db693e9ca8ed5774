"""Decoding in groups of a fixed size: the same bytes whatever else is decoded; names of classes."""

import dataclasses

import pytest
import torch

from alitok.apps.serve.model import FixedGroupDecoder, ServedModel, group_size
from alitok.generator import Generator
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import DecoderConfig, Tokenizer


def test_pixels_do_not_depend_on_the_batch(pipeline):
    decoder = FixedGroupDecoder(pipeline.tokenizer, "fp32")
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
def test_large_decoders_have_small_groups(pipeline, width, group):
    stage2 = DecoderConfig(width=width, layers=2, heads=2)
    tokenizer = Tokenizer(dataclasses.replace(pipeline.tokenizer.config, stage2=stage2)).eval()
    assert group_size(tokenizer) == group


def test_classes_without_names_are_numbers(pipeline):
    unnamed = Pipeline(pipeline.tokenizer, Generator(pipeline.generator.config).eval())
    assert ServedModel("x", unnamed).classes == ["0", "1", "2", "3"]
