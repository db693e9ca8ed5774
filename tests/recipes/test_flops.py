"""The formulas against PyTorch's own counter, which watches the operations of a forward pass."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alitok.generator import Generator, GeneratorConfig
from alitok.recipes.flops import (
    decoder_flops,
    encoder_flops,
    generator_flops,
    generator_step_flops,
    tokenizer_step_flops,
)
from alitok.recipes.presets import RECIPES
from alitok.tokenizer import (
    ConvolutionalDecoderConfig,
    ConvolutionalEncoderConfig,
    DecoderConfig,
    EncoderConfig,
    Tokenizer,
    TokenizerConfig,
)
from alitok.train.generator import GeneratorTask, GeneratorTraining
from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig, StepInfo
from alitok.train.tokenizer import TokenizerPhase, TokenizerTask, TokenizerTraining


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
    "convolutional": TokenizerConfig(
        image_size=32,
        patch_size=8,
        prefix=0,
        codebook_size=64,
        code_width=8,
        encoder=ConvolutionalEncoderConfig(channels=8, blocks=1),
        stage1=ConvolutionalDecoderConfig(channels=12, blocks=2),
        stage2=ConvolutionalDecoderConfig(channels=8, blocks=3),
    ),
    "convolutional, a code for each pixel": TokenizerConfig(
        image_size=8,
        patch_size=1,
        prefix=0,
        codebook_size=64,
        code_width=8,
        encoder=ConvolutionalEncoderConfig(channels=8, blocks=1),
        stage1=ConvolutionalDecoderConfig(channels=8, blocks=1),
        stage2=DecoderConfig(**SMALL),
    ),
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


def step_of(task, batch):
    """Forward and backward passes of one microbatch, as the loop does them, and what follows them."""
    for terms in task.losses(task.modules, batch, StepInfo(0, 0, 0)):
        terms.minimise.backward()


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_training_step_of_the_tokenizer(name, stage):
    config = LAYOUTS[name]
    training = TokenizerTraining(loop=LoopConfig(batch_size=2), phases=(TokenizerPhase(steps=1),))
    images = torch.randint(256, (2, 3, config.image_size, config.image_size), dtype=torch.uint8)
    task = TokenizerTask(Tokenizer(config), stage, training, lambda start: iter(()), images.numpy())
    assert counted(step_of, task, (images, torch.zeros(2))) == 2 * tokenizer_step_flops(config, stage)


def test_a_training_step_of_the_generator():
    config = GeneratorConfig(layers=2, width=64, heads=4)
    training = GeneratorTraining(loop=LoopConfig(batch_size=2), phases=(Phase(steps=1),))
    batch = torch.zeros(2, config.sequence_length, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    task = GeneratorTask(Generator(config), training, lambda start: iter(()), batch)
    assert counted(step_of, task, batch) == 2 * generator_step_flops(config)
