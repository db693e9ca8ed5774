import torch
import torch.nn.functional as F

from alitok.nn.blocks import SwiGlu, init_linear_layers, llama_block, vit_block


def test_swiglu_has_the_published_widths():
    assert [SwiGlu(width).gate.out_features for width in (768, 1024, 1280)] == [2048, 2816, 3584]


def test_blocks_add_attention_and_mlp_behind_their_norms():
    x = torch.randn(2, 5, 16)
    for block in (vit_block(16, 4), llama_block(16, 4, dropout=0.0)):
        middle = x + block.attention(block.attention_norm(x), causal=True)
        assert torch.allclose(block(x, causal=True), middle + block.mlp(block.mlp_norm(middle)), atol=1e-6)
    assert torch.allclose(block.attention_norm(x), F.rms_norm(x, (16,), eps=1e-5), atol=1e-6)


def test_initial_weights_are_truncated_and_biases_zero():
    block = vit_block(64, 4)
    init_linear_layers(block)
    weight = block.mlp.up.weight
    assert weight.abs().max() <= 0.04
    assert 0.015 < weight.std() < 0.02  # a normal of 0.02 cut at two deviations
    assert (block.attention.qkv.bias == 0).all()
