"""The paper's ablation beside this one: whether the arms are ranked in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from alitok.apps.ablate.effects import change_interval
from alitok.apps.ablate.numbers import Ablation, mean_std
from alitok.apps.ablate.tables import mean_cells
from alitok.recipes.published import ABLATION
from alitok.report.model import Row, Table

PAPER = dict(zip(("A", "CE", "B", "C", "D", "E", "F"), ABLATION, strict=True))
# The paper's F is a stage-2 decoder over E's codes, here over D's: by accuracy it is not a separate arm, and from E to
# F the paper changes the decoder only, while this table also goes back to the shorter training.
_INCOMPARABLE = {("E", "F")}
_FOOTNOTE = (
    "The paper's numbers are for ImageNet at 256 px, tokenizers of ViT-B and ViT-L with 4,096 codes, and guided "
    "samples of generator B: only their order compares with the numbers measured here. Its F is trained on E's "
    "codes, here on D's."
)
_ORDER_FOOTNOTE = (
    "Each two arms that have numbers here and in the paper. Within seed variance: Student's 95 % interval of their "
    "difference contains 0, or they are equal here. Pairs of a single seed are counted by its sign, as its variance is "
    "unknown. Orders are from lowest to highest. Verdict: differs if any pair is reversed; partial if none is reversed "
    "but some are within seed variance; open if all are."
)


class Question(NamedTuple):
    """A number of ours, `metric`, and its closest counterpart of the paper, a field of `published.Ablated`.

    A sign is 1 where larger is more, here and in the paper, else -1; `arms` have numbers of their own in both.
    """

    name: str
    paper_name: str
    metric: str
    paper: str
    sign: int
    paper_sign: int
    arms: tuple[str, ...]


_OWN_CODES = ("A", "CE", "B", "C", "D", "E")
QUESTIONS = (
    Question("accuracy", "accuracy", "accuracy", "accuracy", 1, 1, _OWN_CODES),
    Question("PSNR", "rFID", "psnr", "rfid", 1, -1, tuple(PAPER)),
    Question("feature distance", "rFID", "feature_distance", "rfid", -1, -1, tuple(PAPER)),
    Question("sample distance", "gFID", "sample_distance", "gfid", -1, -1, tuple(PAPER)),
)
_Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Order:
    """How the arms that both have are ranked here and in the paper, from lowest to highest.

    `same` and `reversed` are pairs in the paper's order and in the opposite one, `undecided` those within seed variance
    or equal here; `single` is the number of pairs with a single seed.
    """

    question: Question
    here: tuple[str, ...]
    paper: tuple[str, ...]
    same: _Pairs
    reversed: _Pairs
    undecided: _Pairs
    single: int

    @property
    def verdict(self) -> str:
        """In one word; empty without comparable pairs."""
        if self.reversed:
            return "differs"
        if self.undecided:
            return "partial" if self.same else "open"
        return "agrees" if self.same else ""


def orders_of(ablation: Ablation) -> list[Order]:
    """An answer to each question."""
    return [_order(ablation, question) for question in QUESTIONS]


def _order(ablation: Ablation, question: Question) -> Order:
    ours = {
        arm: found.mean * question.sign
        for arm in question.arms
        if getattr(PAPER[arm], question.paper) is not None
        and (found := mean_std(getattr(cell, question.metric) for cell in ablation.of(arm))) is not None
    }
    theirs = {arm: getattr(PAPER[arm], question.paper) * question.paper_sign for arm in ours}
    pairs: dict[int, list[tuple[str, str]]] = {1: [], -1: [], 0: []}  # same, reversed and undecided
    single = 0
    for pair in combinations(ours, 2):
        expected, cells, metric = theirs[pair[1]] - theirs[pair[0]], ablation.paired(*pair), question.metric
        change = mean_std(getattr(second, metric) - getattr(first, metric) for first, second in cells)
        if pair in _INCOMPARABLE or expected == 0 or change is None:
            continue
        single += change.seeds == 1
        bounds = change_interval(cells, metric)
        decided = bounds is None or bounds.excludes_zero
        pairs[int(np.sign(change.mean * question.sign * expected)) if decided else 0].append(pair)
    here, paper = (tuple(sorted(ours, key=values.__getitem__)) for values in (ours, theirs))
    return Order(question, here, paper, tuple(pairs[1]), tuple(pairs[-1]), tuple(pairs[0]), single)


def paper_table(ablation: Ablation) -> Table:
    """A row for every arm that is here or in the paper."""
    columns = ("accuracy, %", "paper", "PSNR, dB", "feature distance", "rFID, paper", "sample distance", "gFID, paper")
    rows = []
    for arm in dict.fromkeys([*ablation.arms, *PAPER]):
        ours = mean_cells(ablation.of(arm), ("accuracy", "psnr", "feature_distance", "sample_distance"))
        paper = PAPER.get(arm)
        accuracy, rfid, gfid = (
            "" if paper is None or (value := getattr(paper, name)) is None else f"{value:.{digits}f}"
            for name, digits in (("accuracy", 1), ("rfid", 2), ("gfid", 2))
        )
        cells = (ours[0], accuracy, ours[1], ours[2], rfid, ours[3], gfid)
        rows.append(Row(arm, cells, key=ablation.arms.get(arm, "not requested here")))
    return Table(columns, tuple(rows), "arm", footnote=_FOOTNOTE)


def orders_table(orders: Sequence[Order]) -> Table:
    """A row for each question."""
    columns = ("order", "as in the paper", "reversed", "within seed variance", "single seed", "here", "in the paper")
    rows = tuple(
        Row(
            order.question.name,
            (
                order.verdict,
                *(_pairs(pairs) for pairs in (order.same, order.reversed, order.undecided)),
                str(order.single),
                " < ".join(order.here),
                " < ".join(order.paper),
            ),
            key=f"in the paper: {order.question.paper_name}",
        )
        for order in orders
    )
    return Table(columns, rows, "by", "Order of the arms", _ORDER_FOOTNOTE)


def _pairs(pairs: _Pairs) -> str:
    named = ", ".join(f"{first}-{second}" for first, second in pairs)
    return f"{len(pairs)}: {named}" if pairs else "0"
