import math

import pytest
import torch

from alitok.nn.rotary import rotary_table, rotate


def angle(position, pair, head_size, prefix, grid):
    """The angle of one pair by the published rule, written out for one number at a time."""
    if position < prefix:
        return position * 10_000 ** (-2 * pair / head_size)
    row, column = divmod(position - prefix, grid)
    quarter = head_size // 4
    if pair < quarter:
        return (prefix + row) * 10_000 ** (-4 * pair / head_size)
    return (prefix + column) * 10_000 ** (-4 * (pair - quarter) / head_size)


@pytest.mark.parametrize(("prefix", "grid", "head_size"), [(3, 4, 8), (17, 16, 48), (0, 2, 4)])
def test_table_equals_the_definition(prefix, grid, head_size):
    table = rotary_table(prefix, grid, head_size)
    assert table.shape == (1 + prefix + grid * grid, head_size // 2, 2)
    assert (table[0] == 0).all()  # the class token
    for position in range(prefix + grid * grid):
        for pair in range(head_size // 2):
            expected = angle(position, pair, head_size, prefix, grid)
            cos, sin = table[1 + position, pair].tolist()
            assert cos == pytest.approx(math.cos(expected), abs=1e-5)
            assert sin == pytest.approx(math.sin(expected), abs=1e-5)


def test_rotation_is_a_complex_product_and_zeroes_the_class_token():
    table = rotary_table(2, 3, 8)
    x = torch.randn(2, 1, 12, 8)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turn = torch.view_as_complex(table.contiguous())
    expected = torch.view_as_real(pairs * turn).flatten(-2)
    assert torch.allclose(rotate(x, table), expected, atol=1e-6)
    assert (rotate(x, table)[:, :, 0] == 0).all()


def test_a_head_size_not_divisible_by_4_is_rejected():
    with pytest.raises(ValueError, match="divisible by 4"):
        rotary_table(1, 2, 6)
