"""The images of a run: opened, verified, and what is left out reported."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alitok.core.choices import SplitName
from alitok.core.console import are, counted, progress_bar, reporter
from alitok.core.distributed import World
from alitok.data.sources.images import Broken
from alitok.data.sources.opening import open_splits
from alitok.data.split import Splits, check_broken, list_broken


def open_images(data: str, size: int, seed: int, console: Console) -> Splits:
    """Open a data set and report what was found in it and is not used.

    Raises:
        AlitokError: there is no such data set, or its images cannot be used.
    """
    report = reporter(console)
    splits = open_splits(data, size, seed, report)
    for note in splits.notes:
        report(note)
    return splits


def verify_images(splits: Splits, split: SplitName, world: World, console: Console) -> list[Broken]:
    """Decode all images of a split once, sharded across the processes; returns the broken ones on every rank.

    Raises:
        AlitokError: too many are broken to leave them out.
    """
    sources = {"all": [splits.train, splits.val], "train": [splits.train], "val": [splits.val]}[split]
    broken: list[Broken] = []
    for source in sources:
        with progress_bar(console, source.name, len(source)) as bar:
            for found in world.gather(source.verify(bar.advance, (world.rank, world.size))):
                broken += found
    check_broken(broken, splits)
    return broken


def report_left_out(broken: Sequence[Broken], console: Console) -> None:
    """Name the images that are left out."""
    if broken:
        number = counted(len(broken), "broken image")
        reporter(console)(f"{number} {are(len(broken))} left out:\n{list_broken(broken)}")
