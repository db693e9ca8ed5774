import itertools
import math

import numpy as np
import pytest
import torch

from alitok.generator.sampling import (
    SamplingConfig,
    draw,
    guidance_scale_at,
    guide,
    next_codes,
    picture_uniforms,
    probabilities,
)


def test_guidance_starts_at_one_and_bends_with_the_power():
    config = SamplingConfig(guidance_scale=6.0, guidance_power=0.7)
    values = [guidance_scale_at(s, 273, config) for s in range(273)]
    assert values[0] == 1
    assert all(later > earlier for earlier, later in itertools.pairwise(values))
    expected = 1 + 5 * (1 - math.cos(math.pi * (100 / 273) ** 0.7)) / 2
    assert values[100] == pytest.approx(expected)
    assert guidance_scale_at(273, 273, config) == pytest.approx(6)


def test_guidance_is_linear_between_the_branches():
    conditional, unconditional = torch.randn(2, 5), torch.randn(2, 5)
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    assert torch.allclose(guide(conditional, unconditional, 3.0), 3 * conditional - 2 * unconditional, atol=1e-5)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.6), (4, 0.5), (100, 1.0)])
def test_filters_equal_a_loop_over_sorted_codes(top_k, top_p):
    logits = torch.randn(6, 9)
    config = SamplingConfig(temperature=0.7, top_k=top_k, top_p=top_p)
    result = probabilities(logits, config)
    for row, got in zip(logits.tolist(), result.tolist(), strict=True):
        weights = [math.exp(value / 0.7) for value in row]
        ranked = sorted(range(9), key=lambda code: -weights[code])[: top_k or None]
        total, reached, kept = sum(weights[code] for code in ranked), 0.0, []
        for code in ranked:
            if reached >= top_p:
                break
            kept.append(code)
            reached += weights[code] / total
        norm = sum(weights[code] for code in kept)
        assert got == pytest.approx([weights[c] / norm if c in kept else 0.0 for c in range(9)], abs=1e-5)


def test_draw_follows_the_probabilities_and_never_gives_an_impossible_code():
    probs = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0]])
    uniform = torch.linspace(0, 1 - 1e-9, 10_001, dtype=torch.float64)
    drawn = draw(probs.expand(len(uniform), -1), uniform)
    share = torch.bincount(drawn, minlength=6) / len(uniform)
    assert torch.allclose(share, probs[0], atol=1e-3)
    assert share[[0, 2, 5]].tolist() == [0, 0, 0]


def test_temperature_zero_takes_the_likeliest():
    logits = torch.randn(5, 9)
    drawn = next_codes(logits, None, torch.rand(5), 0, 4, SamplingConfig(temperature=0.0))
    assert torch.equal(drawn, logits.argmax(-1))


def test_a_pictures_numbers_depend_on_seed_and_picture_alone():
    together = picture_uniforms(7, range(5), 20)
    assert torch.equal(picture_uniforms(7, [3], 20)[0], together[3])
    assert torch.equal(picture_uniforms(7, [4, 1], 20), together[[4, 1]])
    assert not torch.equal(picture_uniforms(8, [3], 20)[0], together[3])
    many = picture_uniforms(0, range(500), 20).numpy()
    assert len(np.unique(many)) > many.size * 0.999  # 24 random bits each
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "wrong",
    [{"guidance_scale": -1.0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -2}],
)
def test_values_outside_their_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        SamplingConfig(**wrong)
