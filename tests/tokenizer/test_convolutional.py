import dataclasses
import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from alitok.core.config import from_dict, override, to_dict, to_toml, tomllib
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics
from alitok.generator import Generator, GeneratorConfig
from alitok.losses.adversarial import DiscriminatorConfig
from alitok.losses.objective import LossWeights
from alitok.sampling import SamplingConfig
from alitok.sampling.memory import decoder_bytes
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import (
    ConvolutionalDecoder,
    ConvolutionalDecoderConfig,
    ConvolutionalEncoder,
    ConvolutionalEncoderConfig,
    Decoder,
    DecoderConfig,
    Encoder,
    EncoderConfig,
    RowDecoder,
    Tokenizer,
    TokenizerConfig,
)
from alitok.train.adversary import AdversaryConfig
from alitok.train.loop import train
from alitok.train.optim import OptimizerConfig
from alitok.train.predictability import PredictabilityConfig
from alitok.train.task import EngineConfig, LoopConfig
from alitok.train.tokenizer import TokenizerPhase, TokenizerTask, TokenizerTraining
from tiny import CONVOLUTIONAL as SMALL

# A `config.json` from before there were convolutional encoders and decoders.
OLD = {
    "image_size": 8,
    "patch_size": 2,
    "prefix": None,
    "codebook_size": 32,
    "code_width": 6,
    "encoder": {"width": 16, "layers": 1, "heads": 2, "causal": False},
    "stage1": {"width": 16, "layers": 1, "heads": 2}
    | {"causal": True, "extra_tokens": 1, "reads_prefix": True, "prefix_head": True},
    "stage2": {"width": 24, "layers": 2, "heads": 2}
    | {"causal": False, "extra_tokens": 3, "reads_prefix": False, "prefix_head": False},
}


@pytest.fixture
def tokenizer():
    model = Tokenizer(SMALL).eval()
    nn.init.normal_(model.quantizer.codebook, std=0.5)
    return model


@pytest.mark.parametrize(("size", "patch"), [(8, 1), (8, 2), (12, 4), (32, 8), (32, 32)])
def test_there_is_one_code_per_patch(size, patch):
    model = Tokenizer(dataclasses.replace(SMALL, image_size=size, patch_size=patch))
    assert isinstance(model.encoder, ConvolutionalEncoder)
    assert isinstance(model.stage1, ConvolutionalDecoder)
    images = torch.rand(2, 3, size, size)
    result = model(images, "stage1")
    assert result.codes.shape == (2, (size // patch) ** 2)
    assert result.features.shape == (2, (size // patch) ** 2, 4)
    assert result.images.shape == images.shape
    assert result.prefix_strip is None
    assert torch.equal(model.encode(images.double()), result.codes)
    assert 0 < model.decode(result.codes).min() < model.decode(result.codes).max() < 1


def without_norms(model):
    for part in list(model.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(part, name, nn.Identity())
    return model


@torch.no_grad()
@pytest.mark.parametrize(("row", "column"), [(0, 0), (9, 6)])
def test_codes_depend_on_their_receptive_field_only(row, column):
    model = without_norms(Tokenizer(dataclasses.replace(SMALL, image_size=32)))
    images = torch.rand(1, 3, 32, 32)
    changed = images.clone()
    changed.unflatten(3, (16, 2)).unflatten(2, (16, 2))[:, :, row, :, column] += 1
    # 1 px by the stem, 2 by the block, 1 by downsampling; 2 cells of 2 px by the block after it.
    moved = (model.encoder(images) != model.encoder(changed)).any(2).view(16, 16)
    reached = torch.zeros(16, 16, dtype=torch.bool)
    reached[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5] = True
    assert torch.equal(moved, reached)
    # 3 cells by the first convolution and its block; 1 px by upsampling, 2 by the block, 1 by the last convolution.
    vectors = torch.rand(1, 256, 4)
    other = vectors.clone()
    other[:, row * 16 + column] += 1
    moved = (model.stage1(vectors).images != model.stage1(other).images).any(1)[0]
    reached = torch.zeros(32, 32, dtype=torch.bool)
    reached[max(2 * row - 10, 0) : 2 * row + 12, max(2 * column - 10, 0) : 2 * column + 12] = True
    assert not moved[~reached].any()
    assert moved[reached].float().mean() > 0.9  # elsewhere the change is rounded away


@torch.no_grad()
def test_norms_leak_little_to_distant_codes():
    model = Tokenizer(dataclasses.replace(SMALL, image_size=32)).eval()
    images = torch.rand(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, :2, :2] = 1 - images[:, :, :2, :2]
    moved = (model.encoder(images) - model.encoder(changed)).norm(dim=2).view(16, 16)
    assert 0 < moved[5:, 5:].mean() < moved[0, 0] / 20


def test_configs_round_trip_and_their_keys_tell_the_kind():
    mixed = dataclasses.replace(SMALL, stage2=DecoderConfig(width=16, layers=1, heads=2))
    for config in (SMALL, mixed, dataclasses.replace(SMALL, encoder=EncoderConfig(width=16, layers=1, heads=2))):
        assert from_dict(TokenizerConfig, to_dict(config), "config.json") == config
        assert from_dict(TokenizerConfig, tomllib.loads(to_toml(to_dict(config))), "run.toml") == config
    other = override(
        to_dict(TokenizerConfig()), ["encoder={channels=32}", "stage1={blocks=1}", "stage2={}", "prefix=0"]
    )
    read = from_dict(TokenizerConfig, other, "--set")
    assert read.encoder == ConvolutionalEncoderConfig(channels=32)
    assert read.stage1 == ConvolutionalDecoderConfig(blocks=1)
    assert read.stage2 == DecoderConfig()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"chanels": 8}, "unknown key 'encoder.chanels'; did you mean 'encoder.channels'?"),
        ({"widht": 8, "layers": 1}, "unknown key 'encoder.widht'; did you mean 'encoder.width'?"),
        ({"channels": 8, "layers": 1}, "does not fit the other keys of 'encoder'."),
        ({"channels": 8.5}, "key 'encoder.channels' = 8.5"),
        ({"blocks": 0}, "key 'encoder': blocks must be at least 1, not 0."),
        ({"width": 10, "heads": 3}, "key 'encoder': width 10"),
    ],
)
def test_a_wrong_key_of_either_kind_is_reported(part, message):
    with pytest.raises(AlitokError) as error:
        from_dict(TokenizerConfig, {"prefix": 0, "encoder": part}, "my.toml")
    assert str(error.value).startswith("my.toml: ")
    assert message in str(error.value)


def test_invalid_sizes_are_rejected():
    with pytest.raises(AlitokError, match="power of two as patch_size, not 6"):
        dataclasses.replace(SMALL, image_size=12, patch_size=6)
    for prefix, named in ((None, 4), (3, 3)):
        with pytest.raises(AlitokError, match=f"no prefix codes, so prefix must be 0, not {named}"):
            dataclasses.replace(SMALL, prefix=prefix)
    transformers = from_dict(TokenizerConfig, OLD, "")
    with pytest.raises(AlitokError, match="prefix must be 0, not 4"):
        dataclasses.replace(transformers, stage2=ConvolutionalDecoderConfig())
    for kind in (ConvolutionalEncoderConfig, ConvolutionalDecoderConfig):
        with pytest.raises(AlitokError, match="channels must be a multiple of 4, not 6"):
            kind(channels=6)
        with pytest.raises(AlitokError, match="channels must be at least 1, not 0"):
            kind(channels=0)


def test_an_old_config_gives_the_same_transformers_and_fingerprint():
    config = from_dict(TokenizerConfig, OLD, "config.json")
    assert to_dict(config) == OLD
    model = Tokenizer(config)
    assert [type(part) for part in (model.encoder, model.stage1, model.stage2)] == [Encoder, Decoder, Decoder]
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number / 8)
    assert model.codes_fingerprint() == "4d8a828f2d72ebd6"


def test_pixels_are_computed_in_float32_under_autocast(tokenizer):
    codes = torch.randint(16, (2, 16))
    with torch.autocast("cpu", torch.bfloat16):
        images = tokenizer.decode(codes)
    assert images.dtype == torch.float32
    assert torch.allclose(images, tokenizer.decode(codes), atol=0.02)


def test_it_decodes_whole_images_but_no_rows(tokenizer):
    generator = Generator(GeneratorConfig(grid=4, prefix=0, codebook_size=16, classes=2, layers=1, width=16, heads=2))
    pipeline = Pipeline(tokenizer, generator.eval(), SamplingConfig(guidance_scale=2.0))
    images = pipeline([0, 1], seed=3)
    assert [image.size for image in images] == [(8, 8), (8, 8)]
    assert pipeline.complete(images[0], 2, 1)[0].size == (8, 8)
    for rejected in (lambda: next(pipeline.stream(0)), lambda: RowDecoder(tokenizer, 1)):
        with pytest.raises(AlitokError, match="stage-1 decoder of this tokenizer is not causal"):
            rejected()


def test_memory_grows_with_channels_and_pixels(tokenizer):
    wider = dataclasses.replace(SMALL, stage2=ConvolutionalDecoderConfig(channels=24, blocks=2))
    larger = dataclasses.replace(SMALL, image_size=16)
    assert decoder_bytes(tokenizer) > 4 * 12 * 8 * 8 * 2  # input and output of a block
    assert 1.5 < decoder_bytes(Tokenizer(wider)) / decoder_bytes(tokenizer) < 2
    assert decoder_bytes(Tokenizer(larger)) == 4 * decoder_bytes(tokenizer)


def images(number, batch=8):
    """Flat images in random colors."""
    colors = np.random.default_rng(number).integers(0, 256, (batch, 3, 1, 1))
    return np.broadcast_to(colors, (batch, 3, 8, 8)).astype(np.uint8)


def trained(config, stage, directory, *, steps=100, adversarial=False, world=None, model=None, **engine):
    """A tokenizer trained in a stage, and the records of its training."""
    torch.manual_seed(0)
    world = world or World(torch.device("cpu"))
    losses = LossWeights(quantizer=0.3, adversarial=0.1 if adversarial else 0.0)
    phase = TokenizerPhase(steps=steps, learning_rate=2e-3, losses=losses, discriminator=adversarial)
    training = TokenizerTraining(
        loop=LoopConfig(batch_size=8, optimizer=OptimizerConfig(ema_decay=0.9), log_every=1, evaluate_every=steps),
        phases=(phase,),
        adversary=AdversaryConfig(network=DiscriminatorConfig(width=32, stages=1, regions=4), weight="adaptive"),
        predictability=PredictabilityConfig(every=steps, images=16, val_images=8, steps=2, batch_size=8, width=16),
    )
    local = 8 // world.size

    def batches(start):
        for number in range(start, 10_000):
            mine = images(number)[world.rank * local : (world.rank + 1) * local]
            yield torch.from_numpy(mine.copy()), torch.zeros(local, dtype=torch.int64)

    model = model or Tokenizer(config)
    task = TokenizerTask(model, stage, training, batches, images(10_000, 20), predictability_images=images(10_001, 16))
    console = Console(file=io.StringIO())
    result = train(task, training.loop, directory, world=world, seed=0, console=console, engine=EngineConfig(**engine))
    if result.weights:
        model.load_state_dict(result.weights)
    return model, read_metrics(directory / "metrics.jsonl")


def test_both_stages_reduce_the_loss_and_stage_2_keeps_the_codes(tmp_path):
    model, records = trained(SMALL, "stage1", tmp_path / "1")
    codes = model.codes_fingerprint()
    assert 0 < records[-1]["predictability_accuracy"] <= 1
    val = images(10_000, 20) / 255
    flat = -10 * np.log10(((val - val.mean((0, 2, 3), keepdims=True)) ** 2).mean((1, 2, 3))).mean()
    assert records[-1]["val_psnr"] > flat + 1  # better than one color for all
    first = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("stage1.")}
    model, second = trained(SMALL, "stage2", tmp_path / "2", model=model)
    assert model.codes_fingerprint() == codes
    assert all(torch.equal(model.state_dict()[name], value) for name, value in first.items())
    for found in (records, second):
        losses = [record["mse"] for record in found if "mse" in record]
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_the_stage_2_decoder_can_be_a_transformer(tmp_path):
    mixed = dataclasses.replace(SMALL, stage2=DecoderConfig(width=16, layers=1, heads=2, extra_tokens=2))
    model, _ = trained(mixed, "stage1", tmp_path / "1", steps=5)
    _, records = trained(mixed, "stage2", tmp_path / "2", steps=5, model=model)
    assert records[-1]["val_psnr"] > 0


def test_the_adaptive_weight_is_measured_at_the_last_convolution(tmp_path):
    model, records = trained(SMALL, "stage1", tmp_path, steps=4, adversarial=True)
    assert model.stage1.last_layer is model.stage1.to_pixels.weight
    weights = [record["adaptive_weight"] for record in records if "adaptive_weight" in record]
    assert weights
    assert all(np.isfinite(weights))


@pytest.mark.parametrize("engine", [{"parallel": "fsdp"}, {"activation_checkpointing": True, "grad_accum_steps": 2}])
def test_two_processes_train_like_one(tmp_path, together, engine):
    # Three steps: after more, rounding may change a feature's nearest code.
    _, alone = trained(SMALL, "stage1", tmp_path / "one", steps=3)
    together(lambda world: trained(SMALL, "stage1", tmp_path / "two", steps=3, world=world, **engine) and None)
    losses = [
        [record["loss"] for record in records if "loss" in record]
        for records in (alone, read_metrics(tmp_path / "two" / "metrics.jsonl"))
    ]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
