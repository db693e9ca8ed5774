"""All that follows from the numbers of an ablation: its tables, what they say in sentences, and the warnings.

Enters: an `Ablation`. Leave: `Findings`, the same for the terminal, for Markdown and for the page.
"""

from __future__ import annotations

from dataclasses import dataclass

from alitok.apps.ablate.matched import beaten, confidences, matched_arms, matched_table
from alitok.apps.ablate.numbers import Ablation
from alitok.apps.ablate.order import orders, paper_table
from alitok.apps.ablate.steps import STEPS, read_steps, warnings_of
from alitok.apps.ablate.table import Table, sizes_table

_READING = (
    "Bits an image: what the codes take when coded with the generator's probabilities, on validation images of known "
    "class. They are an upper bound: a larger or longer trained generator may take fewer.",
    "Accuracy, the share of codes guessed right, says nothing by itself: a tokenizer that keeps less of the image or "
    "uses few of its codes is easier to guess. Only bits at equal fidelity compare two tokenizers.",
    "PSNR rewards blur. The feature distance is that of a classifier's features of an image and its reconstruction: 0 "
    "is the same, 1 as far as another image. Where the two disagree, look at the reconstructions.",
    "Sample distance is a Frechet distance in the features of a classifier trained on these images. It is no FID and "
    "compares only within this report; sample accuracy is the share that this classifier reads as the class asked for.",
    "Later patches: the share of the encoder's influence on a code that comes from patches behind its own. At 0, "
    "codes look back only, as those of a causal encoder must.",
    "Arms with prefix codes have more codes; bits count them all, grid bits only the grid's.",
    "Seconds are wall clock of the trainings, on a machine that may have done other work too.",
)


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        warnings: what a reader must know before the numbers.
        matched: arms at equal fidelity; None where no arm has codebooks of several sizes.
        matched_sentences: the same, a sentence for each pair.
        confidences: what these intervals are and do not cover.
        steps: what each step of the idea changed, a sentence for each.
        sizes: the arms over their codebooks; None where all have one.
        paper: the paper's numbers beside these.
        orders: whether the arms stand in the paper's order, a sentence for each question.
        reading: how to read the numbers.
    """

    warnings: list[str]
    matched: Table | None
    matched_sentences: list[str]
    confidences: list[str]
    steps: list[str]
    sizes: Table | None
    paper: Table
    orders: list[str]
    reading: tuple[str, ...] = _READING


def findings(ablation: Ablation) -> Findings:
    """Everything that follows.

    Raises:
        AlitokError: numbers of cells that do not belong together.
    """
    readings = read_steps(ablation)
    compared = matched_arms(ablation, [(step.first, step.second) for step in STEPS])
    return Findings(
        warnings=warnings_of(ablation, readings, beaten(ablation)),
        matched=matched_table(compared),
        matched_sentences=[entry.sentence for entry in compared],
        confidences=confidences(compared),
        steps=[reading.sentence for reading in readings],
        sizes=sizes_table(ablation),
        paper=paper_table(ablation),
        orders=[order.sentence for order in orders(ablation)],
    )
