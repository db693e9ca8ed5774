import math

import pytest
import torch
from torch import nn

from alitok.core.errors import AlitokError
from alitok.train.optim import OptimizerConfig, WeightAverage, ema_decay_at, learning_rate, parameter_groups


def test_rate_warms_up_linearly_and_falls_along_half_a_cosine():
    config = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    rates = [learning_rate(step, 111, config) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[35] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[110] == pytest.approx(0.1)


def test_only_weight_matrices_of_layers_decay():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.conv = nn.Linear(3, 3), nn.Conv2d(3, 3, 1)
            self.norm, self.embedding = nn.LayerNorm(3), nn.Embedding(4, 3)
            self.positions = nn.Parameter(torch.zeros(5, 3))
            self.frozen = nn.Linear(3, 3).requires_grad_(False)

    model = Model()
    decaying, others = parameter_groups(model, 0.05)
    assert decaying["weight_decay"] == 0.05
    assert {id(p) for p in decaying["params"]} == {id(model.linear.weight), id(model.conv.weight)}
    assert others["weight_decay"] == 0
    names = {name for name, p in model.named_parameters() if any(p is other for other in others["params"])}
    assert names == {"linear.bias", "conv.bias", "norm.weight", "norm.bias", "embedding.weight", "positions"}


def test_average_equals_the_recurrence_with_a_growing_decay():
    model = nn.BatchNorm1d(1)
    with torch.no_grad():
        model.weight.fill_(5.0)
    average, expected = WeightAverage(model, 0.5), 5.0
    for update in range(8):
        with torch.no_grad():
            model.weight.fill_(float(update))
            model.running_mean.fill_(float(update))
        average.update(model)
        decay = ema_decay_at(update, 0.5)
        expected = decay * expected + (1 - decay) * update
        assert average.model.weight.item() == pytest.approx(expected)
        assert average.model.running_mean.item() == update
    assert [ema_decay_at(updates, 0.9) for updates in (0, 8, 1000)] == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"clip": -1.0}, {"betas": (0.9, 1.0)}, {"ema_decay": 1.0}])
def test_values_outside_their_ranges_are_refused(wrong):
    with pytest.raises(AlitokError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)
