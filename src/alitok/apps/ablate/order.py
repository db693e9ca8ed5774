"""The paper's ablation beside this one: whether the arms stand in the same order.

Enters: an `Ablation`. Leave: a table of both, and a sentence for each question, made from the numbers alone. The
paper's are of ImageNet at 256 pixels and large models: only their order can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from alitok.apps.ablate.numbers import Ablation, summary
from alitok.apps.ablate.steps import decided
from alitok.apps.ablate.table import NOTHING, Row, Shown, Table, cells_shown
from alitok.recipes.published import ABLATION

PAPER = dict(zip(("A", "CE", "B", "C", "D", "E", "F"), ABLATION, strict=True))
# The paper's F is a second decoder over E's codes, here over D's: by accuracy it is no arm of its own, and from E to F
# the paper changes the decoder where this table also takes the longer training away.
_APART = {("E", "F")}


class Question(NamedTuple):
    """One number of ours and the paper's nearest to it.

    Attributes:
        name: what is asked for.
        field: of `CellNumbers`.
        paper: of `published.Ablated`.
        upward, paper_upward: whether more is more of what is asked for, here and in the paper.
        arms: that have numbers of their own in both.
    """

    name: str
    field: str
    paper: str
    upward: bool
    paper_upward: bool
    arms: tuple[str, ...]


_OWN_CODES = ("A", "CE", "B", "C", "D", "E")
QUESTIONS = (
    Question("Codes guessed right", "accuracy", "accuracy", True, True, _OWN_CODES),
    Question("Fidelity, PSNR against rFID", "psnr", "rfid", True, False, tuple(PAPER)),
    Question("Fidelity, feature distance against rFID", "feature_distance", "rfid", False, False, tuple(PAPER)),
    Question("Samples, sample distance against gFID", "sample_distance", "gfid", False, False, tuple(PAPER)),
)


@dataclass(frozen=True)
class Order:
    """How one question is answered here and in the paper.

    Attributes:
        question: which.
        here, paper: arms from the least to the most of it, of those that both have.
        alike: pairs of arms that stand as in the paper.
        otherwise: pairs the other way round.
        open: pairs that the chance of training would explain, or that are equal here; only with two or more seeds
            is the first known.
        single: how many of the pairs are known from one seed only.
    """

    question: Question
    here: tuple[str, ...]
    paper: tuple[str, ...]
    alike: tuple[tuple[str, str], ...]
    otherwise: tuple[tuple[str, str], ...]
    open: tuple[tuple[str, str], ...]
    single: int

    @property
    def sentence(self) -> str:
        """The verdict first, then the counts, then both orders."""
        pairs = len(self.alike) + len(self.otherwise) + len(self.open)
        if not pairs:
            return f"{self.question.name}: no two arms that can be compared with the paper's."
        said = f"{self.question.name}: {self._verdict()}. "
        said += f"Of {pairs} {'pair' if pairs == 1 else 'pairs'} of arms, {len(self.alike)} as in the paper"
        if self.otherwise:
            said += f", {len(self.otherwise)} the other way round ({_named(self.otherwise)})"
        if self.open:
            said += f", {len(self.open)} not told from chance ({_named(self.open)})"
        if self.single:
            said += (
                f"; {'all' if self.single == pairs else self.single} by one training each, of which no chance is known"
            )
        return f"{said}. From least to most, here {' < '.join(self.here)}, in the paper {' < '.join(self.paper)}."

    def _verdict(self) -> str:
        if self.otherwise:
            return "the order is not the paper's"
        if self.open:
            return "the order agrees with the paper's as far as it can be told" if self.alike else "the order is open"
        return "the order agrees with the paper's"


def orders(ablation: Ablation) -> list[Order]:
    """An answer to each question."""
    return [_order(ablation, question) for question in QUESTIONS]


def paper_table(ablation: Ablation) -> Table:
    """A row for every arm that is here or in the paper."""
    columns = ("accuracy, %", "paper", "PSNR, dB", "feature distance", "rFID, paper", "sample distance", "gFID, paper")
    rows = []
    for arm in dict.fromkeys([*ablation.arms, *PAPER]):
        ours = cells_shown(ablation.of(arm), ("accuracy", "psnr", "feature_distance", "sample_distance"))
        entry = PAPER.get(arm)
        accuracy, rfid, gfid = (
            (Shown(NOTHING),) * 3
            if entry is None
            else (_paper(entry.accuracy, 1), _paper(entry.rfid, 2), _paper(entry.gfid, 2))
        )
        values = (ours[0], accuracy, ours[1], ours[2], rfid, ours[3], gfid)
        rows.append(Row(arm, ablation.arms.get(arm, "not asked for here"), values))
    note = (
        "The paper's numbers are of ImageNet at 256 pixels, tokenizers of ViT-B and ViT-L with 4,096 codes, and guided "
        "samples of generator B: none compares in size with what is measured here, only their order does. Its F stands "
        "on E's codes, here on D's."
    )
    return Table("Beside the paper", "arm", columns, tuple(rows), note)


def _order(ablation: Ablation, question: Question) -> Order:
    ours = {
        arm: found.mean * (1 if question.upward else -1)
        for arm in question.arms
        if getattr(PAPER[arm], question.paper) is not None
        and (found := summary(getattr(cell, question.field) for cell in ablation.of(arm))) is not None
    }
    theirs = {arm: getattr(PAPER[arm], question.paper) * (1 if question.paper_upward else -1) for arm in ours}
    alike: list[tuple[str, str]] = []
    otherwise: list[tuple[str, str]] = []
    unsure: list[tuple[str, str]] = []
    single = 0
    for pair in combinations(ours, 2):
        expected = theirs[pair[1]] - theirs[pair[0]]
        cells = ablation.paired(*pair)
        change = summary(getattr(second, question.field) - getattr(first, question.field) for first, second in cells)
        if pair in _APART or expected == 0 or change is None:
            continue
        single += change.finite == 1
        way = change.mean * (1 if question.upward else -1) * expected
        if way == 0 or (change.finite > 1 and not decided(cells, question.field)):
            unsure.append(pair)
        else:
            (alike if way > 0 else otherwise).append(pair)
    here, paper = (tuple(sorted(ours, key=values.__getitem__)) for values in (ours, theirs))
    return Order(question, here, paper, tuple(alike), tuple(otherwise), tuple(unsure), single)


def _paper(value: float | None, digits: int) -> Shown:
    return Shown(NOTHING if value is None else f"{value:.{digits}f}")


def _named(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{first} and {second}" for first, second in pairs)
