import dataclasses
import math

import pytest

from alitok.apps.ablate.numbers import Ablation, CellNumbers
from alitok.apps.ablate.order import PAPER, QUESTIONS, orders, paper_table

ARMS = {"A": "first", "CE": "second", "B": "third", "V": "of no paper"}


def cell(arm, seed=0, **changes):
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(CellNumbers)), 0.5)
    numbers |= {"arm": arm, "codebook_size": 256, "seed": seed, "image_psnr": (), "image_bits": ()}
    return CellNumbers(**{**numbers, **changes})


def ablation(cells, arms=ARMS):
    return Ablation(
        data="digits", preset="tiny", image_size=32, patch_size=8, codebook_size=256, arms=arms, cells=tuple(cells)
    )


def accuracies(**values):
    """By arm a list, one for each seed."""
    return ablation(cell(arm, seed, accuracy=value) for arm, some in values.items() for seed, value in enumerate(some))


def test_the_papers_numbers():
    assert {arm: (row.accuracy, row.rfid, row.gfid) for arm, row in PAPER.items()} == {
        "A": (5.4, 0.98, 2.96),
        "CE": (11.2, 1.56, None),
        "B": (10.7, 1.07, 1.88),
        "C": (9.7, 1.01, 1.86),
        "D": (10.2, 1.02, 1.82),
        "E": (10.5, 0.91, 1.47),
        "F": (10.5, 0.86, 1.44),
    }


def test_the_papers_order_agrees():
    found = orders(accuracies(A=[0.1, 0.11, 0.12], CE=[0.3, 0.31, 0.32], B=[0.2, 0.21, 0.22], V=[0.9] * 3))[0]
    assert found.sentence == (
        "Codes guessed right: the order agrees with the paper's. Of 3 pairs of arms, 3 as in the paper. From least to "
        "most, here A < B < CE, in the paper A < B < CE."
    )


def test_another_order_is_told_with_its_pairs():
    found = orders(accuracies(A=[0.1, 0.1, 0.1], CE=[0.2, 0.21, 0.22], B=[0.3, 0.31, 0.32]))[0]
    assert found.otherwise == (("CE", "B"),)
    assert "the order is not the paper's. Of 3 pairs of arms, 2 as in the paper, 1 the other way" in found.sentence
    assert "(CE and B)" in found.sentence
    assert "here A < CE < B, in the paper A < B < CE" in found.sentence


def test_what_chance_would_explain_is_open():
    found = orders(accuracies(A=[0.1, 0.1, 0.1], CE=[0.5, 0.6, 0.7], B=[0.6, 0.5, 0.65]))[0]
    assert found.open == (("CE", "B"),)
    assert "as far as it can be told" in found.sentence
    assert "1 not told from chance (CE and B)" in found.sentence
    alone = orders(accuracies(CE=[0.2, 0.3], B=[0.3, 0.2]))[0]
    assert "the order is open" in alone.sentence


def test_one_training_tells_an_order_of_which_no_chance_is_known():
    found = orders(accuracies(A=[0.1], CE=[0.3], B=[0.2]))[0]
    assert (len(found.alike), found.single) == (3, 3)
    assert "3 as in the paper; all by one training each, of which no chance is known." in found.sentence
    some = orders(accuracies(A=[0.1, 0.11], CE=[0.3], B=[0.2, 0.2101]))[0]
    assert "; 2 by one training each" in some.sentence
    equal = orders(accuracies(A=[0.1], B=[0.1]))[0]
    assert equal.open == (("A", "B"),)


@pytest.mark.parametrize(
    ("number", "field", "least_to_most"),
    [(1, "psnr", (20.0, 21.0, 22.0)), (2, "feature_distance", (0.3, 0.2, 0.1))],
)
def test_fidelity_rises_as_distances_fall(number, field, least_to_most):
    """By rFID the paper has CE < B < A."""
    cells = [
        cell(arm, seed, **{field: value + 0.001 * seed})
        for arm, value in zip(("CE", "B", "A"), least_to_most, strict=True)
        for seed in range(3)
    ]
    found = orders(ablation(cells))[number]
    assert found.question.field == field
    assert found.here == found.paper == ("CE", "B", "A")
    assert len(found.alike) == 3


def test_samples_have_no_causal_encoder_and_accuracy_no_second_decoder():
    arms = dict.fromkeys(("A", "CE", "B", "D", "E", "F"), "")
    found = orders(ablation((cell(arm) for arm in arms), arms))
    by_field = {order.question.field: order for order in found}
    assert "CE" not in by_field["sample_distance"].here
    assert "F" not in by_field["accuracy"].here
    pairs = {pair for order in found for pair in (*order.alike, *order.otherwise, *order.open)}
    assert ("E", "F") not in pairs  # the paper's F stands on E, this one on D
    assert ("D", "F") in pairs


def test_nothing_to_compare_is_told():
    assert orders(accuracies(A=[0.1], V=[0.2]))[0].sentence == (
        "Codes guessed right: no two arms that can be compared with the paper's."
    )
    lost = orders(accuracies(A=[math.nan], CE=[0.1], B=[0.2]))[0]
    assert lost.here == ("CE", "B")
    apart = orders(ablation([cell("A", 0), cell("B", 1)]))[0]
    assert (apart.alike, apart.otherwise, apart.open) == ((), (), ())
    assert len(orders(ablation([]))) == len(QUESTIONS)


def test_the_table_has_both_and_dashes_for_the_rest():
    table = paper_table(accuracies(A=[0.2, 0.3], V=[0.4]))
    rows = {row.name: [entry.text for entry in row.values] for row in table.rows}
    assert list(rows) == ["A", "CE", "B", "V", "C", "D", "E", "F"]
    assert rows["A"][:2] == ["25.0 ± 7.1", "5.4"]
    assert rows["A"][4::2] == ["0.98", "2.96"]
    assert rows["V"][:2] == ["40.0", "\N{EN DASH}"]
    assert rows["CE"] == ["\N{EN DASH}", "11.2", *["\N{EN DASH}"] * 2, "1.56", *["\N{EN DASH}"] * 2]
    assert [row.title for row in table.rows][-1] == "not asked for here"
    assert "only their order does" in table.note
