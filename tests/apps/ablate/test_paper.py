import math

import pytest

from alitok.apps.ablate.paper import PAPER, QUESTIONS, orders_of, orders_table, paper_table
from alitok.report.model import NOTHING


@pytest.fixture
def order(seeds, ablation):
    """The order by the accuracies of arms, given as lists with one for each seed."""

    def make(**values):
        cells = [cell for arm, some in values.items() for cell in seeds(arm, len(some), accuracy=some)]
        return orders_of(ablation(*cells))[0]

    return make


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


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (
            {"A": [0.1, 0.11, 0.12], "CE": [0.3, 0.31, 0.32], "B": [0.2, 0.21, 0.22], "V": [0.9] * 3},
            ["agrees", "3: A-CE, A-B, CE-B", "0", "0", "0", "A < B < CE", "A < B < CE"],
        ),
        (
            {"A": [0.1, 0.1, 0.1], "CE": [0.2, 0.21, 0.22], "B": [0.3, 0.31, 0.32]},
            ["differs", "2: A-CE, A-B", "1: CE-B", "0", "0", "A < CE < B", "A < B < CE"],
        ),
        (
            {"A": [0.1, 0.1, 0.1], "CE": [0.5, 0.6, 0.7], "B": [0.6, 0.5, 0.65]},
            ["partial", "2: A-CE, A-B", "0", "1: CE-B", "0", "A < B < CE", "A < B < CE"],
        ),
        ({"CE": [0.2, 0.3], "B": [0.3, 0.2]}, ["open", "0", "0", "1: CE-B", "0", "CE < B", "B < CE"]),
        (
            {"A": [0.1], "CE": [0.3], "B": [0.2]},
            ["agrees", "3: A-CE, A-B, CE-B", "0", "0", "3", "A < B < CE", "A < B < CE"],
        ),
        ({"A": [0.1], "B": [0.1]}, ["open", "0", "0", "1: A-B", "1", "A < B", "A < B"]),
        ({"A": [0.1], "V": [0.2]}, [NOTHING, "0", "0", "0", "0", "A", "A"]),
        ({"A": [math.nan], "CE": [0.1], "B": [0.2]}, ["differs", "0", "1: CE-B", "0", "1", "CE < B", "B < CE"]),
    ],
)
def test_each_pair_of_arms_is_in_the_papers_order_reversed_or_undecided(values, row, order, texts):
    assert list(texts(orders_table([order(**values)]))["accuracy"].values()) == row


@pytest.mark.parametrize(
    ("number", "metric", "rising"),
    [(1, "psnr", (20.0, 21.0, 22.0)), (2, "feature_distance", (0.3, 0.2, 0.1))],
)
def test_fidelity_rises_as_distances_fall(number, metric, rising, cell, ablation):
    """By rFID the paper has CE < B < A."""
    cells = [
        cell(arm, seed=seed, **{metric: value + 0.001 * seed})
        for arm, value in zip(("CE", "B", "A"), rising, strict=True)
        for seed in range(3)
    ]
    found = orders_of(ablation(*cells))[number]
    assert found.question.metric == metric
    assert found.here == found.paper == ("CE", "B", "A")
    assert len(found.same) == 3


def test_incomparable_arms_are_left_out(cell, ablation):
    found = orders_of(ablation(*(cell(arm) for arm in ("A", "CE", "B", "D", "E", "F"))))
    by_metric = {order.question.metric: order for order in found}
    assert "CE" not in by_metric["sample_distance"].here  # the paper has no samples of it
    assert "F" not in by_metric["accuracy"].here  # it has D's codes
    pairs = {pair for order in found for pair in (*order.same, *order.reversed, *order.undecided)}
    assert ("E", "F") not in pairs  # the paper's F is trained on E's codes, this one on D's
    assert ("D", "F") in pairs


def test_arms_without_a_common_seed_have_no_order(cell, ablation):
    apart = orders_of(ablation(cell("A", seed=0), cell("B", seed=1)))[0]
    assert (apart.same, apart.reversed, apart.undecided, apart.verdict) == ((), (), (), "")
    assert len(orders_of(ablation())) == len(QUESTIONS)


def test_the_table_has_both_and_dashes_for_the_rest(seeds, ablation):
    cells = [*seeds("A", 2, accuracy=[0.2, 0.3]), *seeds("V", 1, accuracy=0.4)]
    table = paper_table(ablation(*cells, arms=("A", "CE", "B", "V")))
    rows = {row.name: [entry.text for entry in row.values] for row in table.rows}
    assert list(rows) == ["A", "CE", "B", "V", "C", "D", "E", "F"]
    assert rows["A"][:2] == ["25.0 ± 7.1", "5.4"]
    assert rows["A"][4::2] == ["0.98", "2.96"]
    assert rows["V"][:2] == ["40.0", NOTHING]
    assert rows["CE"] == [NOTHING, "11.2", *[NOTHING] * 2, "1.56", *[NOTHING] * 2]
    assert [row.key for row in table.rows][-1] == "not requested here"
