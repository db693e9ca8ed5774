import json
from pathlib import Path

import pytest

from alitok.recipes.models import model_rows

GOLDEN = Path(__file__).parents[3] / "shared" / "official_v1" / "released_checkpoint_keys.json"


@pytest.fixture(scope="module")
def rows():
    return {row.name: row for row in model_rows()}


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"the released shapes are not at {GOLDEN}")
def test_v1_counts_are_those_of_the_released_files(rows):
    counts = {}
    for name, tensors in json.loads(GOLDEN.read_text()).items():
        counts[name] = 0
        for shape in tensors.values():
            size = 1
            for side in shape:
                size *= side
            counts[name] += size
    assert rows["alitok-256-v1"].parameters == counts["AliTok.pth"] == 389_899_308
    for letter in ("B", "L", "XL"):
        assert rows[f"alitok-256-v1-{letter}"].parameters == counts[f"alitok_{letter.lower()}.bin"]


def test_layouts_are_those_of_the_paper_and_the_release(rows):
    shape = {name: (row.prefix, row.buffer, row.codes) for name, row in rows.items() if row.kind == "tokenizer"}
    assert shape["alitok-256"] == (16, 64, 272)
    assert shape["alitok-256-v1"] == (17, 32, 273)
    assert shape["alitok-512"] == (32, 64, 1056)
    assert (rows["alitok-256-XL"].guidance_scale, rows["alitok-256-XL"].guidance_power) == (13, 1.4)
    assert [rows[name].reads_prefix for name in ("alitok-256", "alitok-256-v1")] == [False, True]
    assert rows["alitok-256-XL"].published_gfid == 1.28
    assert all(row.measured_gfid is None for row in rows.values())


def test_a_row_turns_into_json(rows):
    text = json.loads(json.dumps({name: row.to_json() for name, row in rows.items()}))
    assert text["digits"]["parameters"] > 100_000
    assert "name" not in text["digits"]
    assert text["alitok-256-B"]["layers"] == 24
    assert text["alitok-256"]["layers"] == [12, 24]
