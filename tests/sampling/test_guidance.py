import itertools
import math

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.sampling.guidance import RowSettings, guidance_scales, guide, keep_likely, next_codes, soft_weights
from alitok.sampling.noise import ImageNoise
from alitok.sampling.settings import SampleRequest, SamplingConfig

CPU = torch.device("cpu")


def scales(length, scale, schedule="cosine", **options):
    return guidance_scales(SamplingConfig(guidance_scale=scale, guidance_schedule=schedule, **options), length)


def test_the_cosine_starts_at_one_and_bends_with_the_power():
    values = scales(273, 6.0, guidance_power=0.7)
    assert values[0] == 1
    assert all(later > earlier for earlier, later in itertools.pairwise(values))
    assert values[100] == pytest.approx(1 + 5 * (1 - math.cos(math.pi * (100 / 273) ** 0.7)) / 2)
    assert values[272] < 6


def test_constant_and_linear_schedules():
    assert scales(4, 3.0, schedule="constant") == [3.0] * 4
    assert scales(4, 3.0, schedule="linear") == [1.0, 1.5, 2.0, 2.5]


def test_outside_the_interval_nothing_is_guided():
    assert scales(10, 3.0, "constant", guidance_start=0.3, guidance_stop=0.7) == [1.0] * 3 + [3.0] * 4 + [1.0] * 3


def test_guidance_is_linear_between_the_branches():
    conditional, unconditional = torch.randn(2, 5), torch.randn(2, 5)
    scale = torch.tensor([[1.0], [3.0]])
    guided = guide(conditional, unconditional, scale)
    assert torch.equal(guided[0], conditional[0])
    assert torch.allclose(guided[1], 3 * conditional[1] - 2 * unconditional[1], atol=1e-5)


def test_soft_weights_take_away_one_in_all():
    confidence = torch.tensor([[0.2, 0.6, 0.2], [0.5, 0.0, 0.0]])
    weights = soft_weights(confidence)
    assert torch.allclose(weights, torch.tensor([[0.8, 0.4, 0.8], [0.0, 1.0, 1.0]]))
    assert torch.allclose((1 - weights).sum(-1), torch.ones(2))
    assert torch.equal(soft_weights(torch.zeros(1, 3)), torch.ones(1, 3))


def settings(*configs, length=4, size=9):
    return RowSettings.of([SampleRequest(0, sampling=config) for config in configs], length, size, CPU)


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(0, 1.0, 0.0), (3, 1.0, 0.0), (0, 0.6, 0.0), (4, 0.5, 0.0), (100, 1.0, 0.0), (0, 1.0, 0.3), (5, 0.9, 0.2)],
)
def test_filters_equal_a_loop_over_sorted_codes(top_k, top_p, min_p):
    logits = torch.randn(6, 9)
    rows = settings(*[SamplingConfig(top_k=top_k, top_p=top_p, min_p=min_p)] * 6)
    result = keep_likely(logits, rows.top_k, rows.top_p, rows.min_p)
    for row, got in zip(logits.tolist(), result.tolist(), strict=True):
        weights = [math.exp(value) for value in row]
        ranked = sorted(range(9), key=lambda code: -weights[code])[: top_k or None]
        total, reached, kept = sum(weights[code] for code in ranked), 0.0, []
        for code in ranked:
            if reached >= top_p or weights[code] < min_p * weights[ranked[0]]:
                break
            kept.append(code)
            reached += weights[code] / total
        assert [code for code in range(9) if got[code] > -math.inf] == sorted(kept)
        assert all(got[code] == row[code] for code in kept)


def test_each_row_has_its_own_settings():
    torch.manual_seed(0)
    configs = [
        SamplingConfig(),
        SamplingConfig(temperature=0.0),
        SamplingConfig(top_k=2, temperature=0.5),
        SamplingConfig(guidance_scale=4.0, guidance_schedule="constant", top_p=0.5),
        SamplingConfig(min_p=0.5),
    ]
    conditional, unconditional, noise = torch.randn(5, 9), torch.randn(5, 9), torch.randn(5, 9)
    noise[:2] = -3 * conditional[:2]  # turns their order round
    mixed = settings(*configs)
    together = next_codes(conditional, unconditional, mixed.scales[:, 1:2], noise, mixed)
    for row, config in enumerate(configs):
        part = slice(row, row + 1)
        own = settings(config)
        other = unconditional[part] if config.guided else None
        alone = next_codes(conditional[part], other, own.scales[:, 1:2], noise[part], own)
        assert alone.item() == together[row].item()
    assert together[0] == (conditional[0] + noise[0]).argmax() != conditional[0].argmax()
    assert together[1] == conditional[1].argmax()


def test_draws_follow_the_softmax_and_never_give_a_filtered_code():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    count = 20_000
    rows = settings(*[SamplingConfig(top_k=3, temperature=2.0)] * count, size=4)
    noise = ImageNoise([(0, index) for index in range(count)], CPU).gumbel(0, 1, 4)[:, 0]
    codes = next_codes(logits.expand(count, -1), None, rows.scales[:, :1], noise, rows)
    share = torch.bincount(codes, minlength=4) / count
    expected = torch.cat([(logits[0, :3] / 2).softmax(-1), torch.zeros(1)])
    assert share[3] == 0
    assert torch.allclose(share, expected, atol=0.012)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_scale_of_zero_or_one_disables_guidance(scale):
    rows = settings(SamplingConfig(guidance_scale=scale))
    assert not rows.guided
    assert rows.scales.tolist() == [[1.0] * 4]


def test_given_codes_are_laid_out_and_checked():
    rows = RowSettings.of([SampleRequest(0, given=(3, 5)), SampleRequest(0, given=(1,))], 4, 9, CPU)
    assert rows.given.tolist() == [[3, 5, -1, -1], [1, -1, -1, -1]]
    assert rows.common == 1
    with pytest.raises(AlitokError, match="5 codes are given, but an image has 4"):
        RowSettings.of([SampleRequest(0, given=(0,) * 5)], 4, 9, CPU)
    with pytest.raises(AlitokError, match="within 0 to 8"):
        RowSettings.of([SampleRequest(0, given=(9,))], 4, 9, CPU)
