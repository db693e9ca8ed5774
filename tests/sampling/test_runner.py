import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.sampling.kernels import _MAKERS, Kernels, Weight, _works, row_class
from alitok.sampling.runner import Runner


def small_generator():
    torch.manual_seed(0)
    config = GeneratorConfig(grid=3, prefix=3, codebook_size=20, classes=5, layers=2, width=16, heads=2)
    model = Generator(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def cache_for(model, rows):
    config = model.config
    return torch.full((config.layers, 2, rows, config.heads, 12, config.width // config.heads), torch.nan)


def ready(model, rows):
    runner = Runner(model, "fp32")
    runner.choose(rows)
    return runner


def causal(count, filled):
    return torch.arange(filled) > torch.arange(filled - count, filled)[:, None]


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 6], [12]], ids=str)
def test_cached_logits_equal_uncached(chunks):
    model = small_generator()
    codes, classes = torch.randint(20, (4, 12)), torch.tensor([0, 1, 4, model.null_class])
    whole = model(codes[:, :-1], classes)
    runner, cache = ready(model, 4), cache_for(model, 4).nan_to_num(0.0)
    tokens = torch.cat([model.class_tokens(classes)[:, None], codes], dim=1)
    start = 0
    for count in chunks:
        stop = start + count
        hidden = causal(count, stop) if count > 1 else None
        logits = runner(tokens[:, start:stop], cache, slice(start, stop), stop, hidden=hidden)
        assert torch.allclose(logits, whole[:, stop - 1], atol=1e-5)
        start = stop


@torch.no_grad()
def test_attention_sees_only_filled_positions():
    """What lies behind them, here not even numbers, reaches no logit."""
    model = small_generator()
    runner, cache = ready(model, 1), cache_for(model, 1)
    for position in range(12):
        where = slice(position, position + 1)
        assert torch.isfinite(runner(torch.tensor([[position]]), cache, where, position + 1)).all()


@torch.no_grad()
def test_a_position_may_be_known_to_the_device_alone():
    model = small_generator()
    runner, mine, theirs = ready(model, 2), cache_for(model, 2), cache_for(model, 2)
    mine.nan_to_num_(0.0), theirs.nan_to_num_(0.0)
    for position in range(5):
        tokens = torch.randint(20, (2, 1))
        expected = runner(tokens, mine, slice(position, position + 1), position + 1)
        hidden = torch.arange(12) > position
        got = runner(tokens, theirs, torch.tensor([position]), 12, hidden=hidden)
        assert torch.allclose(got, expected, atol=1e-5)
    assert torch.allclose(mine, theirs, atol=1e-6)


ERRORS = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.1}


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (2048, 48), (1100, 32)])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_every_kernel_is_the_linear_layer(precision, inputs, outputs, rows):
    torch.manual_seed(0)
    linear = Weight(torch.randn(outputs, inputs) * inputs**-0.5, torch.randn(outputs))
    x = torch.randn(rows, inputs)
    expected = F.linear(x, *linear)
    working = [name for name, maker in _MAKERS[precision].items() if _works(maker, linear)]
    assert working
    for name in working:
        got = _MAKERS[precision][name](linear)(x)
        assert got.dtype == torch.float32
        assert got.shape == expected.shape
        assert (got - expected).abs().max() < ERRORS[precision] * expected.std(), name


def test_the_fastest_kernel_is_taken_or_the_one_that_is_named(monkeypatch):
    linears = [Weight(torch.randn(8, 4), torch.zeros(8))] * 2
    made = Kernels(linears, "fp32")
    timed = []
    monkeypatch.setattr(
        Kernels, "_seconds", lambda self, name, rows: timed.append(name) or {"plain": rows}.get(name, 3)
    )
    assert made.fastest(2)[0] == "plain"
    name, callables = made.fastest(5)
    assert name != "plain"
    assert len(callables) == 2
    timed.clear()
    assert made.fastest(16)[1] is callables  # of the same class of rows: made once, timed once
    made.release()
    assert made.fastest(5)[0] == name
    assert not timed
    assert Kernels(linears, "fp32", "weight_first").fastest(2)[0] == "weight_first"


def test_a_missing_kernel_is_reported():
    meta = [Weight(torch.empty(8, 4, device="meta"), torch.empty(8, device="meta"))]
    with pytest.raises(AlitokError, match="no int8 kernel for meta"):
        Kernels(meta, "int8")


def test_rows_are_classed_by_powers_of_four():
    assert [row_class(rows) for rows in (1, 2, 4, 5, 16, 17, 64, 65, 256)] == [0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("inputs", [64, 4096, 8192])
def test_whole_numbers_do_not_run_over_however_many_are_added(inputs):
    compiled = pytest.importorskip("alitok.sampling.fused")
    x, whole, scale = np.ones((1, inputs), np.float32), np.empty((1, inputs), np.int16), np.empty(1, np.float32)
    compiled.to_whole(x, whole, scale)
    weight, ones, out = np.full((2, inputs), 127, np.int8), np.ones(2, np.float32), np.zeros((1, 2), np.float32)
    compiled.linear_whole(weight, ones, 0 * ones, whole, scale, out, compiled.SET)
    assert out == pytest.approx(127 * inputs, rel=1e-3)


@pytest.mark.parametrize(("how", "expected"), [("SET", 4.0), ("ADD", 6.0), ("GATE", 4 * 2 / (1 + np.exp(-2)))])
def test_results_replace_are_added_or_gated(how, expected):
    compiled = pytest.importorskip("alitok.sampling.fused")
    tiles = compiled.tiles(np.ones((3, 4), np.float32))
    out = np.full((1, 3), 2, np.float32)
    compiled.linear_tiled(tiles, np.zeros(3, np.float32), np.ones((1, 4), np.float32), out, getattr(compiled, how))
    assert out == pytest.approx(expected)
