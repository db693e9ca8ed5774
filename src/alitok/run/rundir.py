"""The directory of a run: each step is done once, marked in `done/STEP.json`, and skipped when the run is resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from alitok.core.console import reporter
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, write_json
from alitok.core.jobdir import JobDir
from alitok.run.steps import STEPS, marker, outputs

RUN_FILE, _REPLACED = "run.toml", "replaced"


def run_job(root: Path) -> JobDir:
    """The job directory of a run."""
    written = (*outputs(), "preflight", _REPLACED, "done")
    return JobDir(root, RUN_FILE, "run", written, marker={"data": None, "recipe": None})


class RunDir:
    """The directory of one run; `settings` is all that decides the results, for `run.toml`.

    `on_change` takes the key paths of changed settings and returns the names below `root` that no longer fit: these are
    moved to `replaced/`, and the new settings are stored. None rejects any change.

    Raises:
        AlitokError: `root` is a file or not empty and not a run, or holds a run with other settings.
    """

    def __init__(
        self,
        root: Path,
        settings: dict[str, Any],
        *,
        console: Console,
        world: World,
        fresh: bool = False,
        on_change: Callable[[list[str]], list[str]] | None = None,
    ) -> None:
        self.root, self.console, self.world = root, console, world
        self._job = run_job(root)
        if on_change is not None and not fresh:
            world.on_rank0(lambda: self._change(settings, on_change))
        self._job.begin(settings, world, fresh=fresh)

    def _change(self, settings: dict[str, Any], on_change: Callable[[list[str]], list[str]]) -> None:
        found = self._job.read()
        changed = [] if found is None else self._job.conflicts(found, settings)
        if changed:
            self._set_aside(on_change(changed))
            self._job.rewrite(settings)  # last: a start that is killed before finds the same changes again

    def _set_aside(self, names: list[str]) -> None:
        existing = [name for name in names if (self.root / name).exists()]
        if not existing:
            return
        self._job.require_idle()
        number = next(n for n in count(1) if not (self.root / _REPLACED / str(n)).exists())
        aside = self.root / _REPLACED / str(number)
        for name in existing:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).rename(aside / name)
        reporter(self.console)(f"Results of other settings were moved to {aside}/, which can be deleted.")

    def step(
        self, name: str, title: str, work: Callable[[], dict[str, Any]], products: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Do a step unless it is done and all its `products`, paths below the root, exist; returns what it reported.

        `work` may report `earlier_seconds`, spent on it in starts that were interrupted.

        Raises:
            AlitokError: another process is at the same step.
        """
        finished = self.finished(name, products)
        if finished is not None:
            self.console.print(f"[dim]{title}: done before, {finished['seconds']:.1f} s[/dim]", highlight=False)
            return finished
        with self._job.lock(self.world, name):
            finished = self.finished(name, products)  # by another run in the meantime
            if finished is not None:
                return finished
            self.console.print(f"[bold]{title}[/bold]", highlight=False)
            began = time.monotonic()
            report = work()
            seconds = time.monotonic() - began + report.pop("earlier_seconds", 0.0)
            report = {"seconds": seconds, **report}
            self.world.on_rank0(lambda: write_json(self.root / marker(name), report))
        return report

    def finished(self, name: str, products: Iterable[str] = ()) -> dict[str, Any] | None:
        """What a step reported, if it is done and all its products exist; the same on every rank."""
        return self.world.on_rank0(lambda: finished_report(self.root, name, products))


def finished_report(root: Path, name: str, products: Iterable[str] = ()) -> dict[str, Any] | None:
    """What a step reported, with `seconds`; None if it is not finished, its marker damaged, or a product missing."""
    path = root / marker(name)
    if not path.exists() or not all((root / product).exists() for product in products):
        return None
    try:
        report = read_json(path)
    except AlitokError:  # half of a file, after a full disk
        return None
    return report if isinstance(report, dict) and "seconds" in report else None


def finished_reports(root: Path, names: Iterable[str] = STEPS) -> dict[str, dict[str, Any]]:
    """The reports of those steps of the run in `root` that are finished."""
    found = {name: finished_report(root, name, STEPS[name].required) for name in names}
    return {name: report for name, report in found.items() if report is not None}
