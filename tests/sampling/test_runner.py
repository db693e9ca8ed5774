import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.sampling.kernels import _MAKERS, Kernels, Weight, _works, row_class
from alitok.sampling.runner import Runner


@torch.no_grad()
def test_attention_sees_only_filled_positions():
    """Later positions, here NaN, reach no logit."""
    config = GeneratorConfig(grid=3, prefix=3, codebook_size=20, classes=5, layers=2, width=16, heads=2)
    runner, cache = Runner(Generator(config).eval(), "fp32"), torch.full((2, 2, 1, 2, 12, 8), torch.nan)
    runner.choose(1)
    for position in range(12):
        where = slice(position, position + 1)
        assert torch.isfinite(runner(torch.tensor([[position]]), cache, where, position + 1)).all()


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
