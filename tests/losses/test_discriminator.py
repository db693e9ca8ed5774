import pytest
import torch
from torch import nn

from alitok.core.config import from_dict
from alitok.core.errors import AlitokError
from alitok.losses.discriminator import BlurPool, Discriminator, DiscriminatorConfig


def test_blur_pool_is_a_weighted_mean_of_sixteen_pixels():
    x = torch.randn(2, 3, 8, 8)
    result = BlurPool()(x)
    taps = [1, 3, 3, 1]
    padded = torch.zeros(2, 3, 10, 10)
    padded[:, :, 1:9, 1:9] = x
    for row in range(4):
        for column in range(4):
            expected = sum(
                taps[i] * taps[j] / 64 * padded[:, :, 2 * row + i, 2 * column + j] for i in range(4) for j in range(4)
            )
            assert torch.allclose(result[:, :, row, column], expected, atol=1e-6)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_any_size_gives_one_logit_per_region(size):
    model = Discriminator(DiscriminatorConfig(width=32, stages=2))
    assert model(torch.rand(2, 3, size, size)).shape == (2, 1, 16, 16)


def test_channels_double_after_the_first_stage():
    model = Discriminator(DiscriminatorConfig(width=32))
    assert [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [
        32,
        32,
        64,
        128,
        128,
        1,
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("width", 100, "width must be a multiple of 32, not 100"),
        ("width", 0, "width must be at least 1"),
        ("stages", 0, "stages must be at least 1"),
        ("regions", 0, "regions must be at least 1"),
    ],
)
def test_invalid_sizes_are_rejected(name, value, said):
    with pytest.raises(AlitokError, match=said):
        from_dict(DiscriminatorConfig, {name: value}, "recipe")
