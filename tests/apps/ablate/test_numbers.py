import dataclasses
import json
import math
import statistics

import pytest

from alitok.apps.ablate.numbers import (
    Ablation,
    CellNumbers,
    read_cell,
    read_numbers,
    summary,
    write_cell,
    write_numbers,
)
from alitok.core.config import from_dict, to_dict
from alitok.core.errors import AlitokError


def cell(arm="A", codebook_size=256, seed=0, **changes):
    numbers = {
        "arm": arm,
        "codebook_size": codebook_size,
        "seed": seed,
        "accuracy": 0.25,
        "grid_accuracy": 0.24,
        "bits": 80.5,
        "grid_bits": 70.25,
        "train_bits": 79.0,
        "psnr": 21.5,
        "ssim": 0.75,
        "feature_distance": 0.125,
        "codebook_use": 0.975,
        "codebook_perplexity": 180.0,
        "sample_distance": 3.5,
        "sample_accuracy": 0.875,
        "tokenizer_seconds": 600.0,
        "generator_seconds": 120.0,
        "influence_future": None,
        "image_psnr": (21.0, 22.0),
        "image_bits": (80.0, 81.0),
    }
    return CellNumbers(**{**numbers, **changes})


def ablation(*cells, **changes):
    shared = {
        "data": "digits",
        "preset": "tiny",
        "image_size": 32,
        "patch_size": 8,
        "codebook_size": 256,
        "arms": {"A": "bidirectional decoder", "B": "causal decoder"},
        "settings": {"threads": 1, "torch": "2.11", "rate": 1e-3, "nested": {"steps": [1, 2]}},
    }
    return Ablation(cells=cells, **{**shared, **changes})


def test_the_file_gives_back_what_was_written(tmp_path):
    whole = ablation(
        cell(influence_future=0.375),
        cell("B", seed=1, image_psnr=(), image_bits=()),
        planned=(("A", 256, 0), ("B", 256, 1), ("B", 512, 1)),
    )
    write_numbers(tmp_path / "ablation.json", whole)
    assert read_numbers(tmp_path / "ablation.json") == whole
    assert json.loads((tmp_path / "ablation.json").read_text())["schema"] == 1


def test_numbers_that_are_not_finite_are_text_in_the_file_and_numbers_again(tmp_path):
    whole = ablation(cell(sample_distance=math.nan, psnr=math.inf, image_psnr=(math.inf, -math.inf)))
    write_numbers(tmp_path / "ablation.json", whole)
    # Strict JSON, for readers in other languages.
    json.loads((tmp_path / "ablation.json").read_text(), parse_constant=pytest.fail)
    found = read_numbers(tmp_path / "ablation.json").cells[0]
    assert math.isnan(found.sample_distance)
    assert (found.psnr, found.image_psnr) == (math.inf, (math.inf, -math.inf))


def test_an_arm_may_be_called_nan(tmp_path):
    whole = ablation(cell("nan"), arms={"nan": "inf"})
    write_numbers(tmp_path / "ablation.json", whole)
    assert read_numbers(tmp_path / "ablation.json") == whole


@pytest.mark.parametrize("arm", ["A", "nan"])
def test_a_cell_alone_goes_through_a_file(tmp_path, arm):
    for made in (cell(arm), cell(arm, psnr=math.inf, image_psnr=(math.inf, -math.inf))):
        write_cell(tmp_path / "cell.json", made)
        json.loads((tmp_path / "cell.json").read_text(), parse_constant=pytest.fail)
        assert read_cell(tmp_path / "cell.json") == made


def test_a_cell_with_bare_infinities_is_read_too(tmp_path):
    made = cell(psnr=math.inf)
    (tmp_path / "cell.json").write_text(json.dumps(to_dict(made)))
    assert read_cell(tmp_path / "cell.json") == made
    with pytest.raises(AlitokError, match="unknown key 'acuracy'"):
        from_dict(CellNumbers, {**to_dict(cell()), "acuracy": 0.5}, "cell.json")


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "cells": 5}'])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "ablation.json").write_text(content)
    with pytest.raises(AlitokError, match=r"ablation\.json"):
        read_numbers(tmp_path / "ablation.json")


def test_what_no_measurement_gives_is_refused():
    with pytest.raises(AlitokError, match="same images, not of 1 and 2"):
        cell(image_psnr=(1.0,))
    with pytest.raises(AlitokError, match="two cells are of arm A, codebook 256, seed 0"):
        ablation(cell(), cell("B"), cell())
    with pytest.raises(AlitokError, match=r"arm 'C', which is not among the arms \(A, B\)"):
        ablation(cell("C"))
    with pytest.raises(AlitokError, match="arm 'C'"):
        ablation(planned=(("C", 256, 0),))


def test_cells_by_arm_codebook_and_seed():
    cells = {
        key: cell(*key)
        for key in (("B", 256, 1), ("A", 512, 0), ("A", 256, 2), ("A", 256, 0), ("B", 256, 0), ("A", 128, 0))
    }
    whole = ablation(*cells.values())
    assert whole.of("A") == (cells["A", 256, 0], cells["A", 256, 2])
    assert whole.of("A", 512) == (cells["A", 512, 0],)
    assert whole.of("B", 512) == ()
    assert whole.by_seed("A") == {
        0: (cells["A", 128, 0], cells["A", 256, 0], cells["A", 512, 0]),
        2: (cells["A", 256, 2],),
    }
    assert whole.paired("A", "B") == [(cells["A", 256, 0], cells["B", 256, 0])]
    assert whole.sizes() == (128, 256, 512)
    assert whole.sizes("B") == (256,)
    assert whole.seeds() == (0, 1, 2)
    assert cells["A", 256, 0].seconds == 720


def test_what_is_missing_is_what_other_arms_have_or_what_was_planned():
    whole = ablation(cell("A", 256, 0), cell("A", 256, 1), cell("A", 512, 1))
    assert whole.missing() == [("A", 512, 0), ("B", 256, 0), ("B", 256, 1)]
    assert ablation().missing() == []
    planned = dataclasses.replace(whole, planned=(("B", 512, 3), ("A", 256, 0), ("A", 256, 3)))
    assert planned.missing() == [("B", 512, 3), ("A", 256, 3)]


def test_mean_and_spread_are_of_the_finite_values():
    values = [1.0, 2.5, 4.0, -3.0]
    found = summary([*values, math.nan, None, math.inf])
    assert found == pytest.approx((statistics.mean(values), statistics.stdev(values), 4))
    assert summary([7.0, math.nan]) == (7.0, None, 1)
    assert summary([math.nan, None]) is None
    assert summary([]) is None
