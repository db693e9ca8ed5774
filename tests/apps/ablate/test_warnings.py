import dataclasses
import math
import re

import pytest

from alitok.apps.ablate.effects import effects_of
from alitok.apps.ablate.warnings import warnings_of


def warnings(whole, dominated=()):
    return warnings_of(whole, effects_of(whole), dominated)


def one(whole, beginning):
    """The one warning that begins so."""
    (found,) = [warning for warning in warnings(whole) if warning.startswith(beginning)]
    return found


@pytest.mark.parametrize(("train", "val", "found"), [(72.1, 80.0, False), (71.9, 80.0, True), (90.0, 80.0, False)])
def test_an_overfitted_generator_is_named(train, val, found, seeds, ablation):
    whole = ablation(*seeds("A", 3), *seeds("B", 3, train_bits=train, bits=val))
    matching = [warning for warning in warnings(whole) if "overfits" in warning]
    assert len(matching) == found
    if found:
        assert "B (71.9 and 80.0)" in matching[0]
        assert "A (" not in matching[0]


def test_other_codebook_sizes_are_named(cell, ablation):
    whole = ablation(cell("A"), cell("B"), cell("B", 1024, train_bits=40.0))
    assert "B with 1,024 codes (40.0 and 80.0)" in one(whole, "The generator overfits")


def test_without_problems_there_is_no_warning(seeds, ablation):
    assert warnings(ablation(*seeds("A", 3), *seeds("B", 3, bits=75.0))) == []


def test_few_seeds(seeds, cell, ablation):
    assert one(ablation(cell("A"), cell("B")), "One seed") == "One seed: the variance of training is unknown."
    assert one(ablation(*seeds("A", 2), *seeds("B", 2)), "Fewer than 3 seeds:")
    assert one(ablation(*seeds("A", 3), *seeds("B", 2)), "Fewer than 3 seeds of B:")
    assert one(ablation(*seeds("A", 3), *seeds("B", 1)), "One seed of B:")


def test_unfinished_cells_are_named(seeds, cell, ablation):
    whole = ablation(*seeds("A", 3), cell("A", 512, 1), cell("B", seed=1))
    assert one(whole, "4 of") == "4 of 9 cells are not finished: A with 512 codes (seed 0, 2); B (seed 0, 2)."
    planned = dataclasses.replace(whole, planned=(*(each.key for each in whole.cells), ("B", 256, 7)))
    assert one(planned, "1 of 6 cells are not finished: B (seed 7).")
    assert warnings(ablation()) == ["No cell is finished yet."]


def test_numbers_that_are_not_finite_are_named(cell, ablation):
    whole = ablation(cell("A", sample_distance=math.nan), cell("B", 512, 3, psnr=math.inf, influence_future=None))
    assert one(whole, "Not finite") == (
        "Not finite, and left out of the means: sample distance of A with 256 codes, seed 0; PSNR of B with 512 codes, "
        "seed 3."
    )


def test_dominated_points_are_named(seeds, ablation):
    (found,) = warnings(ablation(*seeds("A", 3), *seeds("B", 3, bits=75.0)), ["A with 512 codes, seed 1"])
    assert found.startswith("The RD curves leave out A with 512 codes, seed 1: another codebook size takes fewer bits")


def test_no_warning_calls_an_arm_better(seeds, ablation):
    whole = ablation(*seeds("A", 3), *seeds("B", 3, accuracy=0.9, bits=40.0, psnr=20.0, codebook_use=0.1))
    for sentence in warnings(whole):
        assert not re.search(r"\b(better|best|worse|wins?|improve)", sentence), sentence
