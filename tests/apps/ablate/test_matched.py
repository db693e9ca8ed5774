import dataclasses

import pytest

from alitok.apps.ablate.matched import apart_table, dominated_points, matched_arms, matched_table, rd_curves
from alitok.report.model import NOTHING

SIZES = (128, 256, 512)


def test_arms_are_compared_at_equal_psnr(whole, texts):
    found = matched_arms(whole())
    assert [entry.name for entry in found] == ["A to B", "A to F", "B to F"]
    difference = found[0].comparison.difference
    assert difference.value == pytest.approx(-10)
    assert difference.trainings == pytest.approx((-10, -10))
    table = matched_table(found)
    rows = texts(table)
    assert list(rows["A to B"].values())[:5] == ["21.00 to 23.10", "-10.0", "-11.0", "-10.0", "-10.0 to -10.0"]
    assert rows["B to F"]["Δ bits per image"] == "+10.0"
    assert [row.strong for row in table.rows] == [True, False, True]
    assert apart_table(found).rows == ()


def test_arms_without_a_common_psnr_have_their_ranges_and_no_difference(sized, ablation, texts):
    cells = [sized("A", size) for size in SIZES]
    far = sized("F", bits=70.0, psnr=30.0, image_psnr=(), image_bits=())
    found = matched_arms(ablation(*cells, far))
    assert matched_table(found).rows == ()
    assert list(texts(apart_table(found))["A to F"].values()) == ["21.00 to 23.00", "30.00", "F", "30.0", "1"]
    dear = matched_arms(ablation(*cells, dataclasses.replace(far, bits=101.0)))
    assert list(texts(apart_table(dear))["A to F"].values())[2:4] == [NOTHING, NOTHING]


def test_seeds_without_a_common_psnr_are_counted(sized, ablation, texts):
    cells = [sized("A", size, seed) for seed in range(3) for size in SIZES]
    others = [sized("F", seed=0), sized("F", seed=1), sized("F", seed=2, psnr=30.0, image_psnr=(), image_bits=())]
    assert texts(matched_table(matched_arms(ablation(*cells, *others))))["A to F"]["seeds"] == "2 of 3"


def test_one_seed_has_the_interval_over_its_images_and_is_not_bold(whole, texts):
    table = matched_table(matched_arms(whole(seeds=1)))
    row = texts(table)["A to B"]
    assert row["interval, trainings"] == NOTHING
    assert " to " in row["interval, images"]
    assert not any(row.strong for row in table.rows)


def test_without_several_codebook_sizes_nothing_is_compared(sized, ablation):
    assert matched_arms(ablation(sized("A"), sized("B"))) == []


def test_dominated_points_are_listed(sized, ablation):
    made = ablation(sized("A", 256), sized("A", 512, psnr=21.5, image_psnr=(), image_bits=()), sized("A", 128))
    assert dominated_points(made) == ["A with 512 codes, seed 0"]
    assert [point.codebook_size for point in rd_curves(made, "A")[0].frontier] == [128, 256]
