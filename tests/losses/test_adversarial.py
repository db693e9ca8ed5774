import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import from_dict
from alitok.core.errors import AlitokError
from alitok.losses.adversarial import (
    AdaptiveWeight,
    BlurPool,
    Discriminator,
    DiscriminatorConfig,
    LeCam,
    hinge_discriminator,
    hinge_generator,
)

REAL, FAKE = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])


class Decoder(nn.Module):
    """Noise -> images, with a last layer whose gradients are measured."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.body(x))).sigmoid()


def test_hinge_terms_by_hand():
    # relu(1 - real) = 0, 0.5, 2; relu(1 + fake) = 0, 1, 2
    assert hinge_discriminator(REAL, FAKE).item() == pytest.approx(0.5 * (2.5 / 3 + 3 / 3))
    assert hinge_generator(FAKE).item() == pytest.approx(2 / 3)


def test_bf16_logits_give_float32_terms():
    real, fake = REAL.bfloat16(), FAKE.bfloat16()
    terms = hinge_discriminator(real, fake), hinge_generator(fake), LeCam().regularization(real, fake)
    assert [term.dtype for term in terms] == [torch.float32] * 3


def test_lecam_by_hand_before_and_after_updates():
    lecam = LeCam()
    # both means 0: relu(real)^2 = 4, 0.25, 0 and relu(-fake)^2 = 9, 0, 0
    assert lecam.regularization(REAL, FAKE).item() == pytest.approx(4.25 / 3 + 9 / 3)
    lecam.update(torch.tensor(10.0), torch.tensor(-20.0))
    lecam.update(torch.tensor(30.0), torch.tensor(-20.0))
    real = 0.999 * 0.001 * 10 + 0.001 * 30
    fake = -20 * (0.999 * 0.001 + 0.001)
    assert lecam.real.item() == pytest.approx(real, rel=1e-4)
    assert lecam.fake.item() == pytest.approx(fake, rel=1e-4)
    above = [max(value - fake, 0) ** 2 for value in REAL.tolist()]
    below = [max(real - value, 0) ** 2 for value in FAKE.tolist()]
    assert lecam.regularization(REAL, FAKE).item() == pytest.approx((sum(above) + sum(below)) / 3, rel=1e-4)


def test_lecam_has_gradients_and_saves_its_means():
    lecam, real, fake = LeCam(), REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    lecam.regularization(real, fake).backward()
    assert real.grad.tolist() == pytest.approx([4 / 3, 1 / 3, 0])
    assert fake.grad.tolist() == pytest.approx([-2, 0, 0])
    assert set(lecam.state_dict()) == {"real", "fake"}
    assert not list(lecam.parameters())


def losses(decoder, discriminator, x, images):
    decoded = decoder(x)
    return F.mse_loss(decoded, images), hinge_generator(discriminator(decoded))


def vqgan_weight(decoder, discriminator, x, images):
    """The formula of VQGAN on the whole batch, by `backward` on a copy for each loss."""
    norms = []
    for which in (0, 1):
        copied = copy.deepcopy(decoder)
        losses(copied, discriminator, x, images)[which].backward()
        norms.append(copied.last.weight.grad.square().sum().sqrt().item())
    return min(max(norms[0] / (norms[1] + 1e-4), 0), 1e4)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_adaptive_weight_equals_vqgans_for_any_split_of_the_batch(parts):
    decoder, discriminator = Decoder(), nn.Conv2d(3, 1, 4)
    x, images = torch.randn(8, 3, 8, 8), torch.rand(8, 3, 8, 8)
    adaptive = AdaptiveWeight()
    measured = [
        adaptive.gradients(*losses(decoder, discriminator, *part), decoder.last.weight)
        for part in zip(x.chunk(parts), images.chunk(parts), strict=True)
    ]
    assert adaptive.weight == 0  # nothing is measured before the update
    adaptive.update(*(torch.stack(each).mean(0) for each in zip(*measured, strict=True)))
    assert adaptive.weight.item() == pytest.approx(vqgan_weight(decoder, discriminator, x, images), rel=1e-5)


def test_measuring_retains_the_graph_and_accumulates_no_gradients():
    decoder, discriminator = Decoder(), nn.Conv2d(3, 1, 4)
    reconstruction, adversarial = losses(decoder, discriminator, torch.randn(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    measured = AdaptiveWeight().gradients(reconstruction, adversarial, decoder.last.weight)
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert not any(gradient.requires_grad for gradient in measured)
    (reconstruction + adversarial).backward()
    assert torch.allclose(decoder.last.weight.grad, sum(measured), atol=1e-7)


def test_adaptive_weight_is_capped_and_saved():
    adaptive = AdaptiveWeight()
    adaptive.update(torch.full((4,), 3.0), torch.zeros(4))  # 6 / 1e-4
    assert adaptive.weight == 1e4
    adaptive.update(torch.zeros(4), torch.ones(4))
    assert adaptive.weight == 0
    assert set(adaptive.state_dict()) == {"weight"}


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
    channels = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert channels == [32, 32, 64, 128, 128, 1]


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
