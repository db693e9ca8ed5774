import math

import pytest

from alitok.apps.ablate.numbers import MeanStd
from alitok.apps.ablate.tables import METRICS, Metric, arms_table, mean_cell, number, sizes_table
from alitok.report.model import NOTHING


def test_the_table_has_mean_and_standard_deviation_of_each_arm(sized, ablation, texts):
    values = [0.2, 0.3, 0.4]
    cells = [sized("A", seed=seed, accuracy=value, sample_distance=0.01234) for seed, value in enumerate(values)]
    rows = texts(arms_table(ablation(*cells, sized("B", accuracy=0.125, seed=7), arms=("A", "B", "F")), METRICS))
    first, second, third = rows["A"], rows["B"], rows["F"]
    assert first["accuracy, %"] == "30.0 ± 10.0"
    assert first["bits per image"] == "91.0 ± 1.0"
    assert first["PSNR, dB"] == "22.05 ± 0.05"
    assert first["sample distance"] == "0.0123 ± 0.0000"
    assert first["seconds"] == "1,200 ± 0"
    assert first["seeds"] == "3"
    assert (second["accuracy, %"], second["seeds"]) == ("12.5", "1")
    assert list(third.values()) == [*[NOTHING] * (len(third) - 1), "0"]


def test_unknown_numbers_have_no_column_and_nan_is_left_out_of_means(cell, ablation, texts):
    made = ablation(cell("A", influence_future=None, psnr=math.nan), cell("A", seed=1, influence_future=None))
    table = arms_table(made, METRICS)
    assert "later patches, %" not in table.columns
    assert texts(table)["A"]["PSNR, dB"] == "22.00"
    assert "later patches, %" in arms_table(ablation(cell("A", influence_future=0.25)), METRICS).columns


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (1234.56, 1, False, "1,234.6"),
        (-0.04, 1, True, "0.0"),
        (0.04, 1, True, "0.0"),
        (0.06, 1, True, "+0.1"),
        (-3.0, 0, False, "-3"),
        (math.inf, 2, True, "+inf"),
    ],
)
def test_numbers_that_are_rounded_to_zero_have_no_sign(value, digits, signed, text):
    assert number(value, digits, signed=signed) == text


def test_a_metric_without_a_scale_has_three_significant_digits():
    metric = Metric("distance", None)
    found = [mean_cell(MeanStd(value, None, 1), metric).text for value in (1234.0, 12.34, 0.01234, 0.0)]
    assert found == ["1,234", "12.3", "0.0123", "0"]
    assert mean_cell(MeanStd(12.34, 0.567, 2), metric).text == "12.3 ± 0.6"


def test_arms_with_several_codebook_sizes_have_a_table(whole, cell, ablation):
    table = sizes_table(whole())
    assert [row.name for row in table.rows] == [f"{arm} {size}" for arm in "AB" for size in (128, 256, 512)]
    assert table.rows[0].values[0].text == "81.0 ± 1.0"
    assert sizes_table(ablation(cell("A"), cell("B"))).rows == ()
