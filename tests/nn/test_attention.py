import math

import pytest
import torch

from alitok.nn.attention import Attention, KeyValueCache
from alitok.nn.rotary import rotary_table, rotate


def by_hand(attention, x, allowed, value_weights=1.0):
    """Attention with loops over heads and explicit softmax."""
    width = x.shape[-1]
    size = width // attention.heads
    qkv = x @ attention.qkv.weight.T + attention.qkv.bias
    queries, keys, values = qkv.split(width, dim=-1)
    heads = []
    for head in range(attention.heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(size)
        scores = scores.masked_fill(~allowed, -math.inf)
        heads.append((scores.softmax(-1) * value_weights) @ values[..., part])
    return torch.cat(heads, -1) @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("kind", ["full", "causal", "mask"])
def test_attention_equals_explicit_softmax(kind):
    attention, x = Attention(16, 4), torch.randn(2, 5, 16)
    allowed = {
        "full": torch.ones(5, 5, dtype=torch.bool),
        "causal": torch.ones(5, 5, dtype=torch.bool).tril(),
        "mask": torch.rand(5, 5) < 0.5,
    }[kind]
    allowed |= torch.eye(5, dtype=torch.bool)
    mask = allowed if kind == "mask" else None
    result = attention(x, mask=mask, causal=kind == "causal")
    assert torch.allclose(result, by_hand(attention, x, allowed), atol=1e-5)


def test_value_weights_equal_explicit_softmax():
    attention, x, weights = Attention(16, 4), torch.randn(2, 5, 16), torch.rand(2, 5, 5)
    result = attention(x, causal=True, value_weights=weights)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    assert torch.allclose(result, by_hand(attention, x, allowed, weights), atol=1e-5)


def test_qk_norm_normalizes_queries_and_keys():
    plain, normed = Attention(16, 4), Attention(16, 4, qk_norm=True)
    normed.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 5, 16)
    assert not torch.allclose(plain(x), normed(x))
    # Larger queries and keys change nothing once both are normalised.
    scaled = Attention(16, 4, qk_norm=True)
    scaled.load_state_dict(normed.state_dict())
    with torch.no_grad():
        scaled.qkv.weight[:32] *= 50
        scaled.qkv.bias[:32] *= 50
    assert torch.allclose(normed(x), scaled(x), atol=1e-4)


def test_queries_and_keys_have_separate_norms():
    attention, x = Attention(8, 1, qk_norm=True), torch.randn(2, 5, 8)
    torch.nn.init.normal_(attention.query_norm.weight)
    torch.nn.init.normal_(attention.key_norm.weight)
    # Turned by its position, a query that was weighted as a key would meet the keys elsewhere.
    rotary = rotary_table(2, 2, 8)[1:6]
    queries, keys, values = attention.qkv(x).split(8, dim=-1)
    queries, keys = attention.query_norm(queries), attention.key_norm(keys)
    queries, keys = (rotate(part[:, None], rotary)[:, 0] for part in (queries, keys))
    expected = attention.out((queries @ keys.transpose(1, 2) / math.sqrt(8)).softmax(-1) @ values)
    assert torch.allclose(attention(x, rotary=rotary), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 7, [3, 1, 3], [7]])
def test_attention_in_cached_chunks_equals_the_whole(chunks):
    attention, x = Attention(16, 2, qk_norm=True), torch.randn(3, 7, 16)
    rotary = rotary_table(2, 2, 8)
    whole = attention(x, rotary=rotary, causal=True)
    cache = KeyValueCache(
        layers=1, batch=3, heads=2, positions=7, head_size=8, device=torch.device("cpu"), dtype=torch.float32
    )
    parts = []
    for size in chunks:
        rows = slice(cache.length, cache.length + size)
        parts.append(attention(x[:, rows], rotary=rotary[rows], causal=True, cache=cache.layer(0)))
        cache.length += size
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)


def test_a_width_that_does_not_divide_into_heads_is_rejected():
    with pytest.raises(ValueError, match="not divisible by 3 heads"):
        Attention(16, 3)
