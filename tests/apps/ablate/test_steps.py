import dataclasses
import math
import re

import pytest

from alitok.apps.ablate.numbers import Ablation, CellNumbers
from alitok.apps.ablate.steps import decided, read_steps, warnings_of

ARMS = {"A": "bidirectional", "B": "causal", "D": "auxiliary", "F": "second decoder"}


def cell(arm="A", codebook_size=256, seed=0, **changes):
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(CellNumbers)), 0.5)
    numbers |= {"arm": arm, "codebook_size": codebook_size, "seed": seed, "image_psnr": (), "image_bits": ()}
    numbers |= {"bits": 80.0, "grid_bits": 80.0, "train_bits": 80.0, "psnr": 22.0, "codebook_perplexity": 100.0}
    return CellNumbers(**{**numbers, **changes})


def ablation(*cells, arms=("A", "B"), **changes):
    return Ablation(
        data="digits",
        preset="tiny",
        image_size=32,
        patch_size=8,
        codebook_size=256,
        arms={arm: ARMS[arm] for arm in arms},
        cells=cells,
        **changes,
    )


def seeds(arm, count, **fields):
    """Cells whose numbers are lists, one for each seed, or the same for all."""
    return [
        cell(
            arm,
            seed=seed,
            **{name: value[seed] if isinstance(value, list) else value for name, value in fields.items()},
        )
        for seed in range(count)
    ]


def warnings(whole, beaten=()):
    return warnings_of(whole, read_steps(whole), beaten)


def told(whole, beginning):
    """The one warning that begins so."""
    (found,) = [warning for warning in warnings(whole) if warning.startswith(beginning)]
    return found


def test_a_step_tells_the_differences_of_paired_seeds():
    first, second = [100.0, 110.0, 120.0], [89.0, 100.0, 111.0, 0.0]
    whole = ablation(
        *seeds("A", 3, bits=first, grid_bits=first, psnr=[22.0, 22.1, 22.2], accuracy=0.2),
        *seeds("B", 4, bits=second, grid_bits=second, psnr=[22.0, 22.0, 22.2, 0.0], accuracy=[0.24, 0.25, 0.26, 0.9]),
    )
    (reading,) = read_steps(whole)
    assert reading.change("bits") == pytest.approx((-10, 1, 3))
    assert reading.sentence == (
        "A to B, a causal decoder: bits an image -10.0 ± 1.0 (-9.1 %), PSNR -0.03 ± 0.06 dB, accuracy +5.0 ± 1.0 "
        "points; 3 seeds. The chance of training would explain the difference in PSNR (95 %). That is at about equal "
        "fidelity (PSNR within 0.20 dB)."
    )


def test_one_seed_has_no_spread_and_no_chance():
    (reading,) = read_steps(ablation(cell("A"), cell("B", bits=70.0, grid_bits=60.0)))
    assert reading.sentence == (
        "A to B, a causal decoder: bits an image -10.0 (-12.5 %), of the grid's codes alone -20.0, PSNR 0.00 dB, "
        "accuracy 0.0 points; 1 seed. That is at about equal fidelity (PSNR within 0.20 dB)."
    )


def test_a_step_without_a_common_seed_says_so_and_one_not_asked_for_is_not_there():
    whole = ablation(cell("A", seed=0), cell("B", seed=1))
    assert [reading.sentence for reading in read_steps(whole)] == [
        "A to B, a causal decoder: no seed has both arms finished."
    ]
    assert read_steps(ablation(cell("A"), arms=("A", "D"))) == []


def test_a_second_decoder_shares_codes_and_is_no_unequal_fidelity():
    whole = ablation(*seeds("D", 2, psnr=[22.0, 22.1]), *seeds("F", 2, psnr=[23.0, 23.3]), arms=("D", "F"))
    (reading,) = read_steps(whole)
    assert reading.same_codes
    assert not reading.unequal
    assert reading.sentence.startswith(
        "D to F, a second decoder that reads all codes: PSNR +1.10 ± 0.14 dB; 2 seeds. Codes"
    )
    assert not [warning for warning in warnings(whole) if "fidelity" in warning]
    other = ablation(*seeds("D", 2), *seeds("F", 2, bits=80.01, psnr=23.0), arms=("D", "F"))
    assert not read_steps(other)[0].same_codes
    assert read_steps(other)[0].unequal


@pytest.mark.parametrize(
    ("psnrs", "unequal"),
    [
        ([22.19] * 3, False),
        ([22.21] * 3, True),
        ([21.79] * 3, True),
        ([22.0, 22.5, 23.0], False),  # by 0.5 dB, and so is the spread
        ([22.1, 22.6, 23.1], True),
        ([math.nan] * 3, True),
    ],
)
def test_fidelity_is_equal_within_the_spread_or_a_fifth_of_a_decibel(psnrs, unequal):
    whole = ablation(*seeds("A", 3), *seeds("B", 3, psnr=psnrs, bits=79.0))
    (reading,) = read_steps(whole)
    assert reading.unequal == unequal
    assert ("Not at equal fidelity" in reading.sentence or "not known" in reading.sentence) == unequal
    found = [warning for warning in warnings(whole) if warning.startswith("Not at equal fidelity")]
    assert len(found) == unequal
    if unequal:
        gap = "not known" if math.isnan(psnrs[0]) else f"{sum(psnrs) / 3 - 22:+.2f} dB"
        assert f"A to B ({gap})" in found[0]


def test_where_trainings_differ_much_equal_fidelity_is_open():
    whole = ablation(*seeds("A", 3, psnr=[23.4, 19.5, 22.7]), *seeds("B", 3, psnr=[23.1, 22.7, 23.0], bits=79.0))
    (reading,) = read_steps(whole)
    assert not reading.unequal
    assert (
        "Trainings of one arm differ by 2.08 dB (PSNR), so whether that is at equal fidelity is open"
        in reading.sentence
    )


def test_which_arm_keeps_more_of_the_image():
    (lower,) = read_steps(ablation(cell("A"), cell("B", psnr=21.0, bits=70.0)))
    assert "PSNR differs by 1.00 dB, and the first keeps more" in lower.sentence
    (higher,) = read_steps(ablation(cell("A"), cell("B", psnr=23.0, bits=70.0)))
    assert "the second keeps more" in higher.sentence


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
def test_use_of_the_codebook_is_told_where_it_differs_much(changes, other):
    whole = ablation(cell("A"), cell("B", bits=79.0, **changes))
    assert ("not used alike" in read_steps(whole)[0].sentence) == other
    assert any(warning.startswith("The codebook is not used alike: A to B.") for warning in warnings(whole)) == other


@pytest.mark.parametrize(("train", "val", "found"), [(72.1, 80.0, False), (71.9, 80.0, True), (90.0, 80.0, False)])
def test_a_generator_that_learns_by_heart_is_told(train, val, found):
    whole = ablation(*seeds("A", 3), *seeds("B", 3, train_bits=train, bits=val))
    said = [warning for warning in warnings(whole) if "by heart" in warning]
    assert len(said) == found
    if found:
        assert "B (71.9 against 80.0)" in said[0]
        assert "A (" not in said[0]


def test_overfitting_of_other_codebooks_is_told_with_their_size():
    whole = ablation(cell("A"), cell("B"), cell("B", 1024, train_bits=40.0))
    assert "B with 1,024 codes (40.0 against 80.0)" in told(whole, "The generator has learnt")


def test_nothing_is_warned_of_where_all_is_well():
    whole = ablation(*seeds("A", 3), *seeds("B", 3, bits=75.0))
    assert warnings(whole) == []


def test_few_seeds_are_told():
    assert told(ablation(cell("A"), cell("B")), "One seed") == (
        "One seed: how much another training would move the numbers is not known."
    )
    two = ablation(*seeds("A", 2), *seeds("B", 2))
    assert told(two, "Fewer than 3 seeds:")
    assert told(ablation(*seeds("A", 3), *seeds("B", 2)), "Fewer than 3 seeds of B:")
    assert told(ablation(*seeds("A", 3), *seeds("B", 1)), "One seed of B:")


def test_missing_cells_are_told_and_the_rest_is_read():
    whole = ablation(*seeds("A", 3), cell("A", 512, 1), cell("B", seed=1))
    assert told(whole, "4 of") == (
        "4 of 9 cells are not finished: A with 512 codes (seeds 0, 2); B (seeds 0, 2). The report shows what there is."
    )
    planned = dataclasses.replace(whole, planned=(*(each.key for each in whole.cells), ("B", 256, 7)))
    assert told(planned, "1 of 6 cells are not finished: B (seed 7).")
    assert warnings(ablation()) == ["No cell is finished yet."]


def test_numbers_that_are_not_finite_are_named():
    whole = ablation(cell("A", sample_distance=math.nan), cell("B", 512, 3, psnr=math.inf, influence_future=None))
    assert told(whole, "Not a finite number") == (
        "Not a finite number, and in no mean: sample distance of A with 256 codes, seed 0; PSNR of B with 512 codes, "
        "seed 3."
    )


def test_points_that_curves_leave_out_are_named():
    (said,) = warnings(ablation(*seeds("A", 3), *seeds("B", 3, bits=75.0)), ["A with 512 codes, seed 1"])
    assert said.startswith("Curves leave out A with 512 codes, seed 1: another codebook takes fewer bits")


def test_a_change_is_decided_where_students_interval_holds_no_zero():
    def pairs(*changes):
        return [(cell(bits=0.0), cell(bits=change)) for change in changes]

    assert decided(pairs(1.0, 1.1, 0.9), "bits")
    assert decided(pairs(-1.0, -1.1, -0.9), "bits")
    assert not decided(pairs(1.0, -0.5, 0.9), "bits")
    assert not decided(pairs(1.0), "bits")
    assert not decided(pairs(1.0, math.nan), "bits")
    # t = 12.706 for two seeds: the mean must be 12.706 standard errors, here 0.05, from 0
    assert decided(pairs(0.64 - 0.05, 0.64 + 0.05), "bits")
    assert not decided(pairs(0.63 - 0.05, 0.63 + 0.05), "bits")


def test_no_sentence_calls_an_arm_better():
    whole = ablation(*seeds("A", 3), *seeds("B", 3, accuracy=0.9, bits=40.0, psnr=20.0, codebook_use=0.1))
    for sentence in [*warnings(whole), *(reading.sentence for reading in read_steps(whole))]:
        assert not re.search(r"\b(better|best|worse|wins?|improve)", sentence), sentence
