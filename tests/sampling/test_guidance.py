import itertools
import math

import pytest
import torch

from alitok.sampling.guidance import guidance_scales, guide, soft_weights


def scales(length, scale, power=1.0, schedule="cosine", interval=(0.0, 1.0)):
    return guidance_scales(length, scale=scale, power=power, schedule=schedule, interval=interval)


def test_the_cosine_starts_at_one_and_bends_with_the_power():
    values = scales(273, 6.0, 0.7)
    assert values[0] == 1
    assert all(later > earlier for earlier, later in itertools.pairwise(values))
    assert values[100] == pytest.approx(1 + 5 * (1 - math.cos(math.pi * (100 / 273) ** 0.7)) / 2)
    assert values[272] < 6


def test_constant_and_linear_schedules():
    assert scales(4, 3.0, schedule="constant") == [3.0] * 4
    assert scales(4, 3.0, schedule="linear") == [1.0, 1.5, 2.0, 2.5]


def test_outside_the_interval_nothing_is_guided():
    assert scales(10, 3.0, schedule="constant", interval=(0.3, 0.7)) == [1.0] * 3 + [3.0] * 4 + [1.0] * 3


def test_guidance_is_linear_between_the_branches():
    conditional, unconditional = torch.randn(2, 5), torch.randn(2, 5)
    scale = torch.tensor([[1.0], [3.0]])
    guided = guide(conditional, unconditional, scale)
    assert torch.equal(guided[0], conditional[0])
    assert torch.allclose(guided[1], 3 * conditional[1] - 2 * unconditional[1], atol=1e-5)


def test_soft_weights_take_away_one_in_all():
    confidence = torch.tensor([[0.2, 0.6, 0.2], [0.5, 0.0, 0.0]])
    weights = soft_weights(confidence)
    assert torch.allclose(weights, torch.tensor([[0.8, 0.4, 0.8], [0.0, 1.0, 1.0]]))
    assert torch.allclose((1 - weights).sum(-1), torch.ones(2))
    assert torch.equal(soft_weights(torch.zeros(1, 3)), torch.ones(1, 3))
