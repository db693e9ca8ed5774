"""Our models against numbers computed with the released model code (random weights, small widths)."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alitok.apps.convert.layout import (
    discriminator_from_released,
    generator_from_released,
    generator_to_released,
    tokenizer_from_released,
    tokenizer_to_released,
)
from alitok.core.errors import AlitokError
from alitok.core.images import to_float
from alitok.generator import Generator
from alitok.recipes.presets import GENERATORS, TOKENIZERS
from alitok.sampling import SampleRequest, SamplingConfig, oracle
from alitok.sampling.engine import Engine
from alitok.sampling.guidance import RowSettings
from alitok.tokenizer import (
    ConvolutionalDecoderConfig,
    ConvolutionalEncoderConfig,
    DecoderConfig,
    EncoderConfig,
    Tokenizer,
    TokenizerConfig,
)
from tiny import SIZE, TOKENIZER

GOLDEN = Path(__file__).parents[4] / "shared" / "official_v1"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"the golden data is not at {GOLDEN}")
HEADS = {"encoder_heads": 4, "decoder_heads": 6}


def load(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(scope="module")
def stage1():
    return tokenizer_from_released(load("stage1_state"), **HEADS), load("stage1_expected")


@pytest.fixture(scope="module")
def generator():
    return generator_from_released(load("ar_state"), heads=4), load("ar_expected")


@torch.no_grad()
def test_stage_1_features_codes_image_and_strip(stage1):
    tokenizer, expected = stage1
    result = tokenizer(to_float(expected["images_uint8"]), "stage1")
    assert relative(result.features, expected["encoder_output"]) < 1e-4
    assert torch.equal(result.codes, expected["codes"].long())
    assert relative(result.images[..., ::4, ::4], expected["reconstruction"]) < 1e-4
    assert relative(result.prefix_strip[..., ::2, ::4], expected["prefix_reconstruction"]) < 1e-4
    assert result.quantizer_loss.item() == pytest.approx(expected["quantizer_loss_mean"].item(), rel=1e-4)


@torch.no_grad()
def test_one_step_of_clustering(stage1):
    tokenizer = tokenizer_from_released(load("stage1_state"), **HEADS)
    expected, quantizer = stage1[1], tokenizer.quantizer
    quantizer.codebook.copy_(expected["cluster_embedding_before"])
    quantizer.usage.copy_(expected["cluster_embed_prob_before"])
    loss = quantizer(expected["encoder_output"]).loss
    quantizer.cluster(quantizer.candidates(expected["encoder_output"]))
    assert loss.item() == pytest.approx(expected["cluster_quantizer_loss_mean"].item(), rel=1e-5)
    assert torch.allclose(quantizer.codebook, expected["cluster_embedding_after"], atol=1e-5)
    assert torch.allclose(quantizer.usage, expected["cluster_embed_prob_after"], atol=1e-5)


@torch.no_grad()
def test_stage_2_codes_and_image():
    tokenizer, expected = tokenizer_from_released(load("stage2_state"), **HEADS), load("stage2_expected")
    images = to_float(expected["images_uint8"])
    assert torch.equal(tokenizer.encode(images), expected["codes"].long())
    assert relative(tokenizer.decode(expected["codes"].long())[..., ::4, ::4], expected["reconstruction"]) < 1e-4
    assert tokenizer.stage1 is None
    assert tokenizer.config.stage2.extra_tokens == 32


@torch.no_grad()
def test_generator_logits_with_and_without_class(generator):
    model, expected = generator
    codes, classes = expected["token_ids"].long(), expected["class_ids"]
    null = torch.full_like(classes, model.null_class)
    assert relative(model(codes, classes)[:, ::16], expected["logits_cond"]) < 1e-4
    assert relative(model(codes, null)[:, ::16], expected["logits_uncond"]) < 1e-4


@torch.no_grad()
def test_discriminator_logits():
    model, expected = discriminator_from_released(load("discriminator_state")), load("discriminator_expected")
    assert relative(model(to_float(expected["images_uint8"])), expected["logits"]) < 1e-4


@pytest.mark.parametrize(("name", "scale", "power"), [("b", 16.0, 1.8), ("l", 6.0, 0.7), ("xl", 13.0, 1.4)])
def test_guidance_schedule(generator, name, scale, power):
    config = SamplingConfig(guidance_scale=scale, guidance_power=power)
    ours = RowSettings.of([SampleRequest(0, sampling=config)], 273, 4096, torch.device("cpu")).scales[0]
    assert torch.allclose(ours, generator[1][f"cfg_scale_{name}"], atol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [lambda model, requests: Engine(model).sample(requests), pytest.param(oracle.sample, marks=pytest.mark.slow)],
    ids=["engine", "oracle"],
)
def test_greedy_generation(generator, sampler):
    model, expected = generator
    config = SamplingConfig(guidance_scale=6.0, guidance_power=0.7, temperature=0.0)
    codes = sampler(model, [SampleRequest(label, sampling=config) for label in expected["class_ids"].tolist()])
    sure = expected["greedy_margin"] > 1e-3
    assert sure.float().mean() > 0.9
    assert torch.equal(codes[sure], expected["greedy_ids_scale6_pow0.7"].long()[sure])


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_tokenizer_round_trips_bit_for_bit(stage):
    released = load(f"{stage}_state")
    back = tokenizer_to_released(tokenizer_from_released({"model_state": released}, **HEADS), stage)
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], released[name]) for name in released)


def test_a_generator_round_trips_bit_for_bit():
    released = load("ar_state")
    back = generator_to_released(generator_from_released(released, heads=4))
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], released[name]) for name in released)


def test_all_wrong_tensors_are_listed_by_their_released_names():
    released = load("ar_state")
    del released["blocks.0.attn.qkv.weight"], released["blocks.1.norm1.weight"]
    released["surprise"] = torch.zeros(1)
    released["blocks.2.mlp.w1.weight"] = torch.zeros(3)
    released["norm.weight"][0] = math.nan
    with pytest.raises(AlitokError) as error:
        generator_from_released(released, heads=4)
    for words in (
        "missing blocks.0.attn.qkv.weight",
        "missing blocks.1.norm1.weight",
        "unexpected surprise",
        "blocks.2.mlp.w1.weight is (3,), not (256, 64)",
        "norm.weight holds values that are not finite numbers",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "replaced", "words"),
    [
        ("decoder.ffn_aux.0.weight", None, "missing decoder.ffn_aux.0.weight"),
        ("encoder.conv_out.weight", torch.zeros(32, 64), "encoder.conv_out.weight is (32, 64), not (32, 64, 1, 1)"),
        ("latent_tokens", None, "missing latent_tokens"),
        ("decoder.class_embedding", torch.zeros(1, 2, 3), "decoder.class_embedding is (1, 2, 3)"),
        ("quantize.embedding.weight", torch.tensor(3.0), "quantize.embedding.weight is ()"),
        ("encoder.transformer.0.ln_1.weight", torch.zeros(64, dtype=torch.int64), "holds torch.int64"),
    ],
)
def test_a_faulty_tokenizer_tensor_is_reported_by_its_released_name(name, replaced, words):
    released = load("stage1_state")
    del released[name]
    if replaced is not None:
        released[name] = replaced
    with pytest.raises(AlitokError) as error:
        tokenizer_from_released(released, **HEADS)
    assert words in str(error.value)


def test_a_missing_middle_layer_and_another_model_are_rejected():
    released = {name: value for name, value in load("ar_state").items() if not name.startswith("blocks.1.")}
    with pytest.raises(AlitokError, match=r"missing blocks\.1\.attn\.qkv\.weight"):
        generator_from_released(released, heads=4)
    with pytest.raises(AlitokError, match=r"not a released tokenizer: missing .*latent_tokens"):
        tokenizer_from_released(load("ar_state"), **HEADS)
    for nothing in ({}, {"a": 1}, {1: torch.zeros(1)}, None):
        with pytest.raises(AlitokError, match="not a released"):
            generator_from_released(nothing)


def test_a_wrong_head_count_is_reported_with_the_right_one():
    with pytest.raises(AlitokError, match=r"heads=16 does not fit.*try heads=4"):
        generator_from_released(load("ar_state"))
    with pytest.raises(AlitokError, match=r"encoder_heads=12 does not divide the width 64"):
        tokenizer_from_released(load("stage1_state"))
    with pytest.raises(AlitokError, match=r"decoder_heads=7 does not divide the width 96"):
        tokenizer_from_released(load("stage1_state"), encoder_heads=4, decoder_heads=7)


def test_tokenizers_outside_the_released_layout_are_rejected():
    for changes in ({"encoder": EncoderConfig(**SIZE, causal=True)}, {"prefix": 0}):
        tokenizer_to_released(Tokenizer(TOKENIZER), "stage1")
        with pytest.raises(AlitokError, match="something else"):
            tokenizer_to_released(Tokenizer(dataclasses.replace(TOKENIZER, **changes)), "stage1")


def test_convolutional_tokenizers_are_rejected():
    transformer = DecoderConfig(**SIZE)
    for encoder, decoder in (
        (ConvolutionalEncoderConfig(channels=8), transformer),
        (EncoderConfig(**SIZE), ConvolutionalDecoderConfig(channels=8)),
    ):
        config = TokenizerConfig(image_size=32, prefix=0, encoder=encoder, stage1=transformer, stage2=decoder)
        with pytest.raises(AlitokError, match="encoder or stage2 of this tokenizer is convolutional"):
            tokenizer_to_released(Tokenizer(config), "stage2")


def test_full_size_presets_have_the_released_parameter_counts():
    shapes = json.loads((GOLDEN / "released_checkpoint_keys.json").read_text())
    counts = {name: sum(math.prod(shape) for shape in tensors.values()) for name, tensors in shapes.items()}
    config = TOKENIZERS["alitok-256-v1"]
    with torch.device("meta"):
        tokenizer = Tokenizer(config)
        generators = {name: Generator(size.config(config, classes=1000)) for name, size in GENERATORS.items()}
    with_stage2 = tokenizer_to_released(tokenizer, "stage2")
    assert sum(tensor.numel() for tensor in with_stage2.values()) == counts["AliTok.pth"]
    for name, generator in generators.items():
        assert sum(p.numel() for p in generator.parameters()) == counts[f"alitok_{name.lower()}.bin"]
