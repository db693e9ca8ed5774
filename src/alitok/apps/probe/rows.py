"""The numbers of a probe as rows for people, with a sentence on what each says.

Enters: a `ProbeResult`. Leave: `NumberRow`s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alitok.apps.probe.result import ProbeResult
from alitok.metrics.dependency import Share, Shares


@dataclass(frozen=True)
class NumberRow:
    """One number.

    Attributes:
        name: its key in `probe.json`.
        label: for people.
        value, interval, even: formatted; empty where there is none.
        meaning: what it says.
    """

    name: str
    label: str
    value: str
    meaning: str
    interval: str = ""
    even: str = ""


def number_rows(result: ProbeResult) -> list[NumberRow]:
    """All numbers that stand in `probe.json`, in the same order."""
    rows = [*_influence(result), *_reach(result), *_losses(result), *_mutual(result)]
    assert [row.name for row in rows] == list(result.numbers()), "every number has its sentence"
    return rows


def _influence(result: ProbeResult) -> Iterator[NumberRow]:
    shares = result.influence.codes.shares
    yield _share(
        "influence_own",
        "influence, own patch",
        shares["all"].own,
        "Of all changes of codes, the share that a code's own patch makes, which it is there to tell of.",
    )
    yield _share(
        "influence_past",
        "influence, from the past",
        shares["all"].past,
        "The share that patches before it make; a generator already has codes of those.",
    )
    yield _share(
        "influence_future",
        "influence, from the future",
        shares["all"].future,
        "The share that patches behind it make, in raster order. A generator that draws from left to right has to "
        "guess a code before there is anything of these, so what they put into it is hard to foresee.",
    )
    if "prefix" in shares:
        yield _share(
            "influence_future_grid",
            "the same, grid codes",
            shares["grid"].future,
            "Of changes of grid codes alone: the number to compare with tokenizers of another prefix or none.",
        )
        yield _share(
            "influence_future_prefix",
            "the same, prefix codes",
            shares["prefix"].future,
            "Of changes of prefix codes, which stand for the first row: nearly all of an image lies behind that.",
        )
    others = {
        "feature_influence": "By how far the features move, before they are rounded to codes: a small move counts "
        "little.",
        "probability_influence": "By how much the probabilities of codes change, given the feature: a move towards "
        "another code counts, even where it is not reached.",
    }
    for name, kind in result.kinds().items():
        if name in others:
            label = f"{name.partition('_')[0]} influence, from the future"
            yield _share(f"{name}_future", label, kind.shares["all"].future, others[name])


def _reach(result: ProbeResult) -> Iterator[NumberRow]:
    for name, reach in result.reach.items():
        shares: Shares = reach.pixels.shares["all"]
        yield _share(
            f"{name}_reach_own",
            f"{named(name)} reach, own patch",
            shares.own,
            "Of all change of pixels, the share that a code makes in its own patch.",
        )
        past = "This decoder is causal: what it has drawn is final."
        if shares.past.value != 0:
            past = "Above 0, so no patch of this decoder is final before the last code."
        yield _share(
            f"{name}_reach_past",
            f"{named(name)} reach, into the past",
            shares.past,
            f"The share that a code makes in patches before it. {past}",
        )
        yield _share(
            f"{name}_reach_future",
            f"{named(name)} reach, into the future",
            shares.future,
            "The share that a code makes in patches behind it: the decoder reads it to draw them.",
        )
        if "prefix" in reach.pixels.shares:
            yield _share(
                f"{name}_reach_past_grid",
                f"{named(name)} reach, into the past, grid codes",
                reach.pixels.shares["grid"].past,
                "Of the change that grid codes make alone.",
            )


def _losses(result: ProbeResult) -> Iterator[NumberRow]:
    numbers, by = result.numbers(), result.losses.by
    yield NumberRow(
        "accuracy",
        "codes guessed right",
        f"{numbers['accuracy']:.1%}",
        f"By {by}: share of validation codes that it held for the likeliest, knowing those before.",
    )
    yield NumberRow(
        "bits_per_image",
        "bits of an image",
        f"{numbers['bits_per_image']:,.1f}",
        "What a validation image's codes cost, each coded with the probability it was given; lower is easier to guess.",
    )
    yield NumberRow(
        "grid_bits_per_image", "bits of its grid codes", f"{numbers['grid_bits_per_image']:,.1f}", "Without the prefix."
    )
    if "train_accuracy" in numbers:
        yield NumberRow(
            "train_accuracy",
            "training codes guessed right",
            f"{numbers['train_accuracy']:.1%}",
            "The same of the codes it has learnt; far above, it knows them by heart.",
        )


def _mutual(result: ProbeResult) -> Iterator[NumberRow]:
    numbers = result.numbers()
    yield NumberRow(
        "mutual_bits",
        "bits one code tells of another",
        f"{numbers['mutual_bits']:.3f}",
        f"Mean over pairs of positions, over {result.mutual.images:,} images, without what chance makes.",
    )
    yield NumberRow(
        "mutual_bits_before",
        "bits the code before tells",
        f"{numbers['mutual_bits_before']:.3f}",
        "Mean over neighbours in the sequence. A generator reads all earlier codes together, and may know more.",
    )
    yield NumberRow(
        "mutual_bits_above",
        "bits the code above tells",
        f"{numbers['mutual_bits_above']:.3f}",
        "Mean over grid codes of neighbouring rows.",
    )


def _share(name: str, label: str, share: Share, meaning: str) -> NumberRow:
    interval = f"{_percent(share.low)} to {_percent(share.high)}"
    return NumberRow(name, label, _percent(share.value), meaning, interval, _percent(share.even))


def _percent(value: float) -> str:
    """One digit behind the point; an exact 0 has none."""
    return "0" if value == 0 else f"{value:.1%}"


def named(decoder: str) -> str:
    """A decoder's name for people."""
    return {"stage1": "stage 1", "stage2": "stage 2"}.get(decoder, decoder)
