import dataclasses
import json
import math
import statistics

import pytest

from alitok.apps.ablate.numbers import Ablation, CellNumbers, mean_std, read_cell, write_numbers
from alitok.core.config import from_dict, to_dict
from alitok.core.errors import AlitokError


def content(path):
    """Of strict JSON, for readers in other languages."""
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_the_file_holds_everything(tmp_path, cell, ablation):
    whole = ablation(
        cell(influence_future=0.375),
        cell("B", seed=1, image_psnr=(), image_bits=()),
        planned=(("A", 256, 0), ("B", 256, 1), ("B", 512, 1)),
    )
    write_numbers(tmp_path / "ablation.json", whole)
    written = content(tmp_path / "ablation.json")
    assert written.pop("schema") == 1
    assert from_dict(Ablation, written, "") == whole


@pytest.mark.parametrize("arm", ["A", "nan"])
def test_a_single_cell_round_trips(tmp_path, arm, cell):
    for made in (cell(arm), cell(arm, psnr=math.inf, image_psnr=(math.inf, -math.inf), image_bits=(1.0, 2.0))):
        write_numbers(tmp_path / "cell.json", made)
        assert content(tmp_path / "cell.json")["psnr"] == ("inf" if made.psnr == math.inf else made.psnr)
        assert read_cell(tmp_path / "cell.json") == made
    write_numbers(tmp_path / "cell.json", cell(arm, sample_distance=math.nan))
    assert math.isnan(read_cell(tmp_path / "cell.json").sample_distance)


def test_a_cell_with_bare_infinities_is_read_too(tmp_path, cell):
    made = cell(psnr=math.inf)
    (tmp_path / "cell.json").write_text(json.dumps(to_dict(made)))
    assert read_cell(tmp_path / "cell.json") == made
    with pytest.raises(AlitokError, match="unknown key 'acuracy'"):
        from_dict(CellNumbers, {**to_dict(cell()), "acuracy": 0.5}, "cell.json")


@pytest.mark.parametrize("damaged", ["[]", "{}", '{"arm": "A"}', "{"])
def test_a_file_of_another_kind_is_rejected(tmp_path, damaged):
    (tmp_path / "cell.json").write_text(damaged)
    with pytest.raises(AlitokError, match=r"cell\.json"):
        read_cell(tmp_path / "cell.json")


def test_inconsistent_numbers_are_rejected(cell, ablation):
    with pytest.raises(AlitokError, match="same images, not of 1 and 2"):
        cell(image_psnr=(1.0,), image_bits=(1.0, 2.0))
    with pytest.raises(AlitokError, match="two cells have arm A, codebook size 256 and seed 0"):
        ablation(cell(), cell("B"), cell())
    with pytest.raises(AlitokError, match="unknown arm 'C'; the arms are A, B"):
        ablation(cell("C"), arms=("A", "B"))
    with pytest.raises(AlitokError, match="arm 'C'"):
        ablation(planned=(("C", 256, 0),))


def test_cells_by_arm_codebook_and_seed(cell, ablation):
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
    assert cells["A", 256, 0].seconds == 1


def test_missing_cells_are_those_of_other_arms_or_those_planned(cell, ablation):
    whole = ablation(cell("A", 256, 0), cell("A", 256, 1), cell("A", 512, 1))
    assert whole.missing() == [("A", 512, 0), ("B", 256, 0), ("B", 256, 1)]
    assert ablation().missing() == []
    planned = dataclasses.replace(whole, planned=(("B", 512, 3), ("A", 256, 0), ("A", 256, 3)))
    assert planned.missing() == [("B", 512, 3), ("A", 256, 3)]


def test_mean_and_standard_deviation_are_of_the_finite_values():
    values = [1.0, 2.5, 4.0, -3.0]
    found = mean_std([*values, math.nan, None, math.inf])
    assert found == pytest.approx((statistics.mean(values), statistics.stdev(values), 4))
    assert mean_std([7.0, math.nan]) == (7.0, None, 1)
    assert mean_std([math.nan, None]) is None
    assert mean_std([]) is None
