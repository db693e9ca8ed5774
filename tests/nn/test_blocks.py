import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alitok.nn.blocks import SwiGlu, init_linear_layers, llama_block, vit_block


def test_swiglu_has_the_published_widths():
    assert [SwiGlu(width).gate.out_features for width in (768, 1024, 1280)] == [2048, 2816, 3584]


def test_swiglu_gates_one_branch_with_the_other():
    mlp, x = SwiGlu(16), torch.randn(2, 5, 16)
    gate, up = x @ mlp.gate.weight.T, x @ mlp.up.weight.T
    assert torch.allclose(mlp(x), (gate / (1 + (-gate).exp()) * up) @ mlp.down.weight.T, atol=1e-5)


def test_blocks_are_pre_norm_residual():
    x = torch.randn(2, 5, 16)
    for block in (vit_block(16, 4), llama_block(16, 4, dropout=0.0)):
        middle = x + block.attention(block.attention_norm(x), causal=True)
        assert torch.allclose(block(x, causal=True), middle + block.mlp(block.mlp_norm(middle)), atol=1e-6)
    assert torch.allclose(block.attention_norm(x), F.rms_norm(x, (16,), eps=1e-5), atol=1e-6)


@pytest.mark.parametrize(("width", "deviation"), [(1024, 0.02), (768, 0.02), (192, 0.04), (48, 0.08)])
def test_initial_weights_are_truncated_and_biases_zero(width, deviation):
    layer = nn.Linear(width, 4096)
    init_linear_layers(layer, width)
    assert layer.weight.abs().max() <= 2 * deviation
    cut = 0.8796 * deviation  # of a normal that is cut at two deviations
    assert layer.weight.std().item() == pytest.approx(cut, rel=0.02)
    assert (layer.bias == 0).all()


def test_a_block_of_any_width_adds_as_much_to_the_residual_stream_as_one_of_768():
    added = {}
    for width in (96, 768):
        torch.manual_seed(0)
        block = vit_block(width, 4)
        init_linear_layers(block, width)
        x = torch.randn(4, 16, width)
        added[width] = (block.mlp(block.mlp_norm(x)).std() / x.std()).item()
    assert added[96] == pytest.approx(added[768], rel=0.15)
