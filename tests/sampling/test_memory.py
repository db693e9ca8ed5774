"""The batch that is drawn where nobody says: what fits, and 64 at most."""

import pytest
import torch

from alitok.generator import Generator, GeneratorConfig
from alitok.sampling import SamplingConfig, memory
from alitok.sampling import pipeline as module
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

SMALL = {"width": 16, "layers": 1, "heads": 2}


@pytest.fixture
def pair():
    torch.manual_seed(0)
    tokenizer = TokenizerConfig(
        image_size=16,
        patch_size=4,
        codebook_size=40,
        code_width=4,
        encoder=EncoderConfig(**SMALL),
        stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
        stage2=None,
    )
    generator = GeneratorConfig(grid=4, prefix=4, codebook_size=40, classes=3, layers=1, width=16, heads=2)
    return Pipeline(Tokenizer(tokenizer).eval(), Generator(generator).eval(), SamplingConfig(guidance_scale=2.0))


def test_the_batch_of_a_call_fits_into_memory(pair, monkeypatch):
    sizes = []

    def watch(engine, decoder, requests, *, batch_size):
        sizes.append(batch_size)
        return iter(())

    monkeypatch.setattr(module, "synthesize", watch)
    weights = sum(parameter.nbytes for parameter in pair.generator.parameters())
    one = memory.codes_bytes(pair.engine, 1, guided=True) + memory.decoder_bytes(pair.tokenizer)
    for free, wanted in (((2 * weights + 7.5 * one) / 0.95, 7), (weights, 1), (1 << 50, 64), (None, 64)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: None if free is None else int(free))
        pair([0, 1])
        assert sizes.pop() == wanted
    pair([0, 1], batch_size=3)
    assert sizes == [3]
    # Without guidance an image takes one row.
    monkeypatch.setattr(memory, "free_memory", lambda device: int((2 * weights + 7.5 * one) / 0.95))
    pair([0], guidance_scale=1.0)
    assert sizes.pop() > 7
