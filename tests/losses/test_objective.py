import dataclasses
import itertools
import math
import random

import pytest
import torch
from torch import nn

from alitok.core.errors import AlitokError
from alitok.losses.objective import LossWeights, Objective, auxiliary_mse, compose_first_row
from alitok.losses.perceptual import LocalFeatures, LocalFeaturesConfig
from alitok.tokenizer import Tokenizer
from tiny import TOKENIZER

NAMES = ("convnext", "lpips", "local")


class Counted(LocalFeatures):
    """A small feature network that records its batch sizes."""

    def __init__(self):
        super().__init__(LocalFeaturesConfig(width=8, stages=2), outputs=2)
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return super().forward(images)


def networks(*names):
    return {name: Counted() for name in names}


def some_images(cells=4):
    """Images, a reconstruction of them, and a strip of `cells` patches; 4 x 4 patches of 2 x 2 px."""
    images, rebuilt = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8, requires_grad=True)
    return images, rebuilt, torch.rand(2, 3, 2, 2 * cells, requires_grad=True)


def by_hand(extractors, weights, images, rebuilt, strip, quantizer):
    def distance(name, a):
        return extractors[name].distance(extractors[name](a), extractors[name](images)).item()

    composed = rebuilt.detach().clone()
    composed[:, :, :2] = strip
    mse = (images - rebuilt).square().mean().item()
    auxiliary = (images[:, :, :2] - strip).square().mean().item()
    if weights.auxiliary_perceptual:
        auxiliary += sum(getattr(weights, name) * distance(name, composed) for name in NAMES)
    reconstruction = weights.mse * mse + sum(getattr(weights, name) * distance(name, rebuilt) for name in NAMES)
    return {
        "mse": mse,
        **{name: distance(name, rebuilt) for name in NAMES},
        "quantizer": quantizer,
        "auxiliary": auxiliary,
        "reconstruction": reconstruction,
        "loss": reconstruction + weights.quantizer * quantizer + weights.auxiliary * auxiliary,
    }


@pytest.mark.parametrize(("seed", "perceptual_row"), list(itertools.product(range(3), (True, False))))
def test_all_terms_and_their_sums_equal_those_by_hand(seed, perceptual_row):
    uniform = random.Random(seed).uniform
    weights = LossWeights(
        **{name: uniform(0.1, 3) for name in ("mse", *NAMES, "quantizer", "auxiliary", "adversarial", "lecam")},
        auxiliary_perceptual=perceptual_row,
    )
    extractors = networks(*NAMES)
    images, rebuilt, strip = some_images()
    result = Objective(extractors, patch_size=2)(
        images, rebuilt, weights, prefix_strip=strip, quantizer_loss=torch.tensor(0.7)
    )
    expected = by_hand(extractors, weights, images, rebuilt, strip, 0.7)
    assert {name: term.item() for name, term in result.items()} == pytest.approx(expected, rel=1e-4)
    assert all(term.dtype == torch.float32 and term.ndim == 0 for term in result.values())


def test_stage_2_has_the_reconstruction_terms_only():
    images, rebuilt, _ = some_images()
    result = Objective(networks("local"), 2)(images, rebuilt, LossWeights(local=1.0))
    assert set(result) == {"loss", "reconstruction", "mse", "local"}
    assert result["loss"] == result["reconstruction"]


def test_networks_of_weight_zero_are_not_run_and_the_target_runs_once():
    extractors = networks("lpips", "local")
    images, rebuilt, strip = some_images()
    objective = Objective(extractors, 2)
    result = objective(images, rebuilt, LossWeights(local=1.0), prefix_strip=strip)
    assert "lpips" not in result
    assert (extractors["lpips"].seen, extractors["local"].seen) == ([], [2, 4])
    objective(images, rebuilt, LossWeights(local=1.0, auxiliary_perceptual=False), prefix_strip=strip)
    objective(images, rebuilt, LossWeights(local=1.0, auxiliary=0.0), prefix_strip=strip)
    assert extractors["local"].seen[2:] == [2, 2, 2, 2]


def test_cheap_terms_of_weight_zero_are_reported_with_zero_gradient():
    images, rebuilt, strip = some_images()
    quantizer = torch.tensor(0.7, requires_grad=True)
    weights = LossWeights(mse=0.0, quantizer=0.0, auxiliary=0.0)
    result = Objective({}, 2)(images, rebuilt, weights, prefix_strip=strip, quantizer_loss=quantizer)
    assert result["loss"] == 0
    assert all(result[name] > 0 for name in ("mse", "quantizer", "auxiliary"))
    result["loss"].backward()
    for tensor in (rebuilt, strip, quantizer):
        assert tensor.grad is not None
        assert (tensor.grad == 0).all()


def test_gradients_reach_the_reconstruction_but_no_network():
    extractors = networks(*NAMES)
    images, rebuilt, strip = some_images()
    objective = Objective(extractors, 2)
    weights = LossWeights(mse=0.0, convnext=1.0, lpips=1.0, local=1.0)
    objective(images, rebuilt, weights, prefix_strip=strip)["loss"].backward()
    assert (rebuilt.grad.flatten(1).norm(dim=1) > 0).all()
    assert (strip.grad.flatten(1).norm(dim=1) > 0).all()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in objective.parameters())
    assert not any(module.training for network in extractors.values() for module in network.modules())


@pytest.mark.parametrize("perceptual_row", [True, False])
@pytest.mark.parametrize("cells", [2, 4, 5])
def test_the_auxiliary_loss_has_gradients_in_the_strip_only(cells, perceptual_row):
    images, rebuilt, strip = some_images(cells)
    weights = LossWeights(local=1.0, auxiliary_perceptual=perceptual_row)
    result = Objective(networks("local"), 2)(images, rebuilt, weights, prefix_strip=strip)
    result["auxiliary"].backward()
    assert rebuilt.grad is None or (rebuilt.grad == 0).all()
    assert (strip.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(("cells", "from_strip"), [(2, 2), (4, 4), (5, 4)])
def test_the_first_row_is_the_strip_as_far_as_it_reaches(cells, from_strip):
    _, rebuilt, strip = some_images(cells)
    composed = compose_first_row(rebuilt, strip, 2)
    for row, column in itertools.product(range(8), range(8)):
        in_strip = row < 2 and column < 2 * from_strip
        expected = strip[:, :, row, column + 2 * (cells - from_strip)] if in_strip else rebuilt[:, :, row, column]
        assert torch.equal(composed[:, :, row, column], expected)


def test_the_auxiliary_loss_trains_only_the_prefix_path_of_a_tokenizer():
    tokenizer = Tokenizer(dataclasses.replace(TOKENIZER, stage2=None))
    images = torch.rand(2, 3, 16, 16)
    result = tokenizer(images, "stage1")
    weights = LossWeights(local=1.0)
    objective = Objective(networks("local"), 4)
    objective(images, result.images, weights, prefix_strip=result.prefix_strip)["auxiliary"].backward()
    decoder = tokenizer.stage1
    for parameter in decoder.head.parameters():
        assert parameter.grad is None or (parameter.grad == 0).all()
    assert all(parameter.grad.norm() > 0 for parameter in decoder.prefix_head.parameters())
    positions = decoder.positions.grad.norm(dim=1)  # 1 leading token, 4 prefix codes, 16 grid codes
    assert (positions[:5] > 0).all()
    assert (positions[5:] == 0).all()  # causal: the prefix path reads no grid code


def test_under_bf16_autocast_all_terms_are_float32_and_close():
    objective = Objective(networks("local"), 2)
    images, rebuilt, strip = some_images()
    weights = LossWeights(local=1.0)
    exact = objective(images, rebuilt, weights, prefix_strip=strip)
    with torch.autocast("cpu", torch.bfloat16):
        result = objective(images, rebuilt, weights, prefix_strip=strip)
    assert all(term.dtype == torch.float32 for term in result.values())
    assert result["mse"] == exact["mse"]
    assert result["local"].item() == pytest.approx(exact["local"].item(), rel=0.05)
    assert result["local"] != exact["local"]  # the network itself ran in bf16


def test_networks_move_with_the_objective():
    objective = Objective(networks("local"), 2)
    assert isinstance(objective, nn.Module)
    assert {parameter.device.type for parameter in objective.to("meta").parameters()} == {"meta"}


def test_long_strips_repeat_the_first_patch_and_short_ones_cover_part_of_the_row():
    images = torch.rand(2, 3, 8, 8)
    row = images[:, :, :2]
    released = torch.cat([row[..., :2], row], dim=-1)  # five patches for four cells
    assert auxiliary_mse(images, released, 2) == 0
    assert auxiliary_mse(images, row[..., :4], 2) == 0
    assert auxiliary_mse(images, row.flip(-1), 2) > 0


def test_perceptual_weight_can_be_moved_to_one_network_or_none():
    weights = LossWeights(mse=2.0, convnext=0.25, lpips=1.0, adversarial=0.5)
    assert weights.networks() == ("convnext", "lpips")
    assert LossWeights().networks() == ()
    for name in NAMES:
        moved = weights.with_perceptual(name)
        assert moved.networks() == (name,)
        assert getattr(moved, name) == 1.25
        assert (moved.mse, moved.adversarial) == (2.0, 0.5)
    assert weights.with_perceptual("none") == LossWeights(mse=2.0, adversarial=0.5)


@pytest.mark.parametrize("value", [-0.1, math.nan])
@pytest.mark.parametrize("name", ["mse", *NAMES, "quantizer", "auxiliary", "adversarial", "lecam", "discriminator"])
def test_negative_weights_and_nan_are_rejected(name, value):
    with pytest.raises(AlitokError, match=f"{name} must be at least 0"):
        LossWeights(**{name: value})
