import pytest
import torch
from torch import nn

from alitok.core.errors import AlitokError
from alitok.train.optim import (
    OptimizerConfig,
    WeightEMA,
    clip_gradients,
    ema_decay_at,
    gradient_norm,
    make_optimizer,
    parameter_groups,
)


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


def test_average_equals_the_recurrence_with_a_growing_decay_and_is_lent_to_the_model():
    model = nn.BatchNorm1d(1)
    with torch.no_grad():
        model.weight.fill_(5.0)
    average, expected = WeightEMA(model, 0.5), 5.0
    for update in range(8):
        with torch.no_grad():
            model.weight.fill_(float(update))
            model.running_mean.fill_(float(update))
        average.update(model)
        decay = ema_decay_at(update, 0.5)
        expected = decay * expected + (1 - decay) * update
        with average.applied(model):
            assert model.weight.item() == pytest.approx(expected)
            assert model.running_mean.item() == update
        assert model.weight.item() == update
    assert [ema_decay_at(updates, 0.9) for updates in (0, 8, 1000)] == pytest.approx([0.1, 0.5, 0.9])


def test_moments_that_exist_from_the_start_change_no_step():
    def weights(optimizer_of):
        torch.manual_seed(1)
        model = nn.Linear(3, 2)
        optimizer = optimizer_of(model)
        for step in range(5):
            optimizer.zero_grad()
            model(torch.full((4, 3), float(step))).square().sum().backward()
            optimizer.step()
        return model.weight

    config = OptimizerConfig(weight_decay=0.0)
    ours = weights(lambda model: make_optimizer(model, config))
    plain = weights(lambda model: torch.optim.AdamW(model.parameters(), weight_decay=0.0, fused=True))
    assert torch.equal(ours, plain)


def test_norm_and_clipping_are_those_of_torch():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    for model in (ours, theirs):
        for parameter in model.parameters():
            torch.manual_seed(parameter.numel())
            parameter.grad = torch.randn_like(parameter)
    norm = gradient_norm(ours.parameters(), torch.device("cpu"))
    assert torch.allclose(norm, nn.utils.clip_grad_norm_(theirs.parameters(), 0.7))
    clip_gradients(ours.parameters(), norm, 0.7)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad)
    small = [parameter.grad.clone() for parameter in ours.parameters()]
    clip_gradients(ours.parameters(), gradient_norm(ours.parameters(), torch.device("cpu")), 5.0)
    assert all(torch.equal(one.grad, before) for one, before in zip(ours.parameters(), small, strict=True))
    assert gradient_norm([nn.Parameter(torch.ones(2))], torch.device("cpu")) == 0


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 0.25), ("linear", 0.0625)])
def test_learning_rates_follow_the_batch_by_the_requested_rule(rule, factor):
    assert OptimizerConfig(rate_rule=rule).rate_factor(128) == pytest.approx(factor)
    assert OptimizerConfig().rate_factor(128) == 1.0


@pytest.mark.parametrize("wrong", [{"clip": -1.0}, {"betas": (0.9, 1.0)}, {"ema_decay": 1.0}, {"reference_batch": 0}])
def test_values_out_of_range_are_rejected(wrong):
    with pytest.raises(AlitokError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)
