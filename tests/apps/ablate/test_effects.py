import math

import pytest

from alitok.apps.ablate.effects import change_interval, effects_of, effects_table
from alitok.apps.ablate.warnings import warnings_of
from alitok.report.model import NOTHING


def row(texts, effects):
    (found,) = texts(effects_table(effects)).values()
    return found


def test_an_effect_is_the_difference_of_paired_seeds_with_its_interval(seeds, ablation, texts):
    first, second = [100.0, 110.0, 120.0], [89.0, 100.0, 111.0, 0.0]
    whole = ablation(
        *seeds("A", 3, bits=first, grid_bits=first, psnr=[22.0, 22.1, 22.2], accuracy=0.2),
        *seeds("B", 4, bits=second, grid_bits=second, psnr=[22.0, 22.0, 22.2, 0.0], accuracy=[0.24, 0.25, 0.26, 0.9]),
    )
    (effect,) = effects_of(whole)
    assert effect.change("bits") == pytest.approx((-10, 1, 3))
    found = row(texts, [effect])
    # t = 4.3027 for two degrees of freedom: 4.3027 / sqrt(3) = 2.484 standard deviations
    assert found["Δ bits per image"] == "-10.0 ± 1.0 -12.5 to -7.5"
    assert found["Δ grid bits"] == found["Δ bits per image"]
    assert found["Δ bits, %"] == "-9.1"
    assert found["Δ PSNR, dB"] == "-0.03 ± 0.06 -0.18 to +0.11"
    assert found["Δ accuracy, points"] == "+5.0 ± 1.0 +2.5 to +7.5"
    assert (found["PSNR equal"], found["seeds"]) == ("equal within 0.20 dB", "3")


def test_one_seed_has_neither_deviation_nor_interval(cell, ablation, texts):
    found = row(texts, effects_of(ablation(cell("A"), cell("B", bits=70.0, grid_bits=60.0))))
    names = "Δ bits per image", "Δ bits, %", "Δ grid bits", "Δ PSNR, dB"
    assert [found[name] for name in names] == ["-10.0", "-12.5", "-20.0", "0.00"]
    assert (found["Δ accuracy, points"], found["seeds"]) == ("0.0", "1")


def test_arms_without_a_common_seed_have_an_empty_row_and_those_not_requested_none(cell, ablation, texts):
    found = row(texts, effects_of(ablation(cell("A", seed=0), cell("B", seed=1))))
    assert set(found.values()) == {NOTHING, "0"}
    assert effects_of(ablation(cell("A"), arms=("A", "D"))) == []


def test_a_stage_2_decoder_shares_codes_and_is_not_unequal(seeds, ablation, texts):
    whole = ablation(*seeds("D", 2, psnr=[22.0, 22.1]), *seeds("F", 2, psnr=[23.0, 23.3]), arms=("D", "F"))
    effects = effects_of(whole)
    assert effects[0].fidelity == "same codes"
    assert row(texts, effects)["Δ PSNR, dB"].startswith("+1.10 ± 0.14")
    assert not [warning for warning in warnings_of(whole, effects, []) if "PSNR" in warning]
    (other,) = effects_of(ablation(*seeds("D", 2), *seeds("F", 2, bits=80.01, psnr=23.0), arms=("D", "F")))
    assert other.fidelity == "not equal"


@pytest.mark.parametrize(
    ("psnrs", "fidelity"),
    [
        ([22.19] * 3, "equal"),
        ([22.21] * 3, "not equal"),
        ([21.79] * 3, "not equal"),
        ([22.0, 22.5, 23.0], "equal"),  # by 0.5 dB, the standard deviation
        ([22.1, 22.6, 23.1], "not equal"),
        ([23.4, 19.5, 22.7], "open"),
        ([math.nan] * 3, "unknown"),
    ],
)
def test_psnr_is_equal_within_the_standard_deviation_or_a_fifth_of_a_decibel(psnrs, fidelity, seeds, ablation):
    whole = ablation(*seeds("A", 3), *seeds("B", 3, psnr=psnrs, bits=79.0))
    (effect,) = effects_of(whole)
    assert effect.fidelity == fidelity
    found = [warning for warning in warnings_of(whole, [effect], []) if warning.startswith("Unequal PSNR")]
    assert len(found) == (fidelity in ("not equal", "unknown"))
    if found:
        gap = "unknown" if math.isnan(psnrs[0]) else f"{sum(psnrs) / 3 - 22:+.2f} dB"
        assert f"A to B ({gap})" in found[0]


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"codebook_use": 0.59}, False),
        ({"codebook_use": 0.61}, True),
        ({"codebook_use": 0.39}, True),
        ({"codebook_perplexity": 124.0}, False),
        ({"codebook_perplexity": 126.0}, True),
        ({"codebook_perplexity": 79.0}, True),
        ({"codebook_perplexity": math.nan}, False),
    ],
)
def test_very_different_codebook_use_is_warned_of(changes, other, cell, ablation, texts):
    whole = ablation(cell("A"), cell("B", bits=79.0, **changes))
    effects = effects_of(whole)
    assert effects[0].unequal_use == other
    warned = any(text.startswith("Unequal codebook use: A to B.") for text in warnings_of(whole, effects, []))
    assert warned == other
    if changes == {"codebook_use": 0.61}:
        assert row(texts, effects)["codebook use, %"] == "50 → 61"


def test_the_interval_of_a_change_is_students(cell):
    def changes(*values):
        return [(cell(bits=0.0), cell(bits=value)) for value in values]

    assert change_interval(changes(1.0, 1.1, 0.9), "bits").excludes_zero
    assert not change_interval(changes(1.0, -0.5, 0.9), "bits").excludes_zero
    assert change_interval(changes(1.0), "bits") is None
    assert change_interval(changes(1.0, math.nan), "bits") is None
    # t = 12.706 for two seeds: the mean must be 12.706 standard errors, here 0.05, from 0
    assert change_interval(changes(0.64 - 0.05, 0.64 + 0.05), "bits").excludes_zero
    assert not change_interval(changes(0.63 - 0.05, 0.63 + 0.05), "bits").excludes_zero
