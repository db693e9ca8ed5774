"""Parity with the released code on a small recorded case; see released_small/make.py."""

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
from alitok.core.images import to_float
from alitok.sampling import SampleRequest, SamplingConfig, oracle
from alitok.sampling.engine import Engine

HERE = Path(__file__).parents[2] / "released_small"
HEADS = {"encoder_heads": 2, "decoder_heads": 2}


def load(name):
    return load_file(HERE / f"{name}.safetensors")


@pytest.fixture(scope="module")
def expected():
    return load("expected")


@torch.no_grad()
def test_both_stages(expected):
    first = tokenizer_from_released(load("stage1"), **HEADS)
    images = to_float(expected["images_uint8"])
    result = first(images, "stage1")
    assert torch.allclose(result.features, expected["encoder_output"], atol=1e-5)
    assert torch.equal(result.codes, expected["codes"])
    assert torch.allclose(result.images, expected["stage1_reconstruction"], atol=1e-5)
    assert torch.allclose(result.prefix_strip, expected["prefix_reconstruction"], atol=1e-5)
    assert result.quantizer_loss.item() == pytest.approx(expected["quantizer_loss_mean"].item(), rel=1e-5)
    second = tokenizer_from_released(load("stage2"), **HEADS)
    assert torch.allclose(second.reconstruct(images), expected["stage2_reconstruction"], atol=1e-5)


@torch.no_grad()
def test_clustering(expected):
    quantizer = tokenizer_from_released(load("stage1"), **HEADS).quantizer
    quantizer.cluster(quantizer.candidates(expected["encoder_output"]))
    assert torch.allclose(quantizer.codebook, expected["cluster_embedding_after"], atol=1e-5)
    assert torch.allclose(quantizer.usage, expected["cluster_embed_prob_after"], atol=1e-6)


@torch.no_grad()
def test_generator_logits_and_greedy_codes(expected):
    model = generator_from_released(load("generator"), heads=2, prefix=5, grid=4)
    assert torch.allclose(model(expected["codes"], expected["class_ids"]), expected["logits"], atol=1e-4)
    greedy = SamplingConfig(guidance_scale=6.0, guidance_power=0.7, temperature=0.0)
    requests = [SampleRequest(label, sampling=greedy) for label in expected["class_ids"].tolist()]
    for codes in (Engine(model).sample(requests), oracle.sample(model, requests)):
        assert torch.equal(codes, expected["greedy_ids"])


@torch.no_grad()
def test_discriminator(expected):
    model = discriminator_from_released(load("discriminator"))
    assert torch.allclose(model(to_float(expected["images_uint8"])), expected["discriminator_logits"], atol=1e-4)


def test_states_round_trip_bit_for_bit():
    for stage in ("stage1", "stage2"):
        released = load(stage)
        back = tokenizer_to_released(tokenizer_from_released(released, **HEADS), stage)
        assert back.keys() == released.keys()
        assert all(torch.equal(back[name], released[name]) for name in released)
    released = load("generator")
    back = generator_to_released(generator_from_released(released, heads=2, prefix=5, grid=4))
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], released[name]) for name in released)
