"""The formulas against PyTorch's own counter, which watches the operations of a forward pass."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alitok.generator import Generator, GeneratorConfig
from alitok.presets import RECIPES
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig
from alitok.workflow.flops import decoder_flops, encoder_flops, generator_flops


def counted(function, *arguments):
    """On the math kernel attention is two plain products, which the counter knows on every device."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        function(*arguments)
    return counter.get_total_flops()


SMALL = {"width": 32, "layers": 2, "heads": 2}
LAYOUTS = {
    "paper": TokenizerConfig(
        encoder=EncoderConfig(**SMALL),
        stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
        stage2=DecoderConfig(**SMALL, extra_tokens=64, reads_prefix=False),
    ),
    "digits": RECIPES["digits"].tokenizer,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_tokenizer(name):
    config = LAYOUTS[name]
    model = Tokenizer(config)
    images = torch.rand(1, 3, config.image_size, config.image_size)
    vectors = torch.rand(1, config.sequence_length, config.code_width)
    assert counted(model.encode, images) == encoder_flops(config)
    for decoder in (model.stage1, model.stage2):
        assert counted(decoder, vectors) == decoder_flops(config, decoder.config)


def test_generator():
    config = GeneratorConfig(layers=2, width=64, heads=4)
    model = Generator(config).eval()
    codes = torch.zeros(1, config.sequence_length - 1, dtype=torch.int64)
    classes = torch.zeros(1, dtype=torch.int64)
    assert counted(model, codes, classes) == generator_flops(config)
