"""The directory of a whole run, and its steps: each is done once, marked, and skipped when the run is started again.

Enters: what was asked for (data, seed, recipe). Leaves: `run.toml` with the resolved configuration, and
`done/STEP.json` for each finished step with its seconds and what it reported.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from alitok.core.config import read_toml, to_toml
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, remove, write_bytes, write_json
from alitok.core.lock import locked

_RUN, _DONE, _REPLACED = "run.toml", "done", "replaced"
_PATIENCE = 20.0  # seconds; readers of a process that was killed hold its lock until they notice
_TOLD = {"contents": "images were added, removed, relabelled or changed since"}  # settings that need words


class Workspace:
    """The place of one run.

    Args:
        root: its directory; made when missing.
        settings: all that decides the results, as nested mappings for `run.toml`.
        outputs: the names in `root` that the run writes, and that `fresh` may delete.
        fresh: throw away what an earlier run left in `root`.
        on_change: given the key paths of the settings that differ from those of the run that `root` holds, and the
            names below `root` of what no longer fits: these are set aside below `replaced/`, and the new settings
            taken over. It may raise to refuse; None refuses any change.
        world: the processes of the run; the first one writes.
        console: where progress is told.

    Raises:
        AlitokError: `root` is a file, holds things that are not a run's, or holds a run with other settings.
    """

    def __init__(
        self,
        root: Path,
        settings: dict[str, Any],
        *,
        outputs: Iterable[str],
        fresh: bool,
        console: Console,
        world: World,
        on_change: Callable[[list[str]], list[str]] | None = None,
    ) -> None:
        self.root, self.console, self.world = root, console, world
        self._settings = tomllib.loads(to_toml(settings))
        world.on_rank0(lambda: self._prepare(settings, outputs, fresh, on_change))

    def _prepare(
        self,
        settings: dict[str, Any],
        outputs: Iterable[str],
        fresh: bool,
        on_change: Callable[[list[str]], list[str]] | None,
    ) -> None:
        root = self.root
        require_place(root)
        if fresh and root.exists():
            _require_idle(root)
            # run.toml goes last: what a killed removal leaves behind is still known to be a run's.
            for name in (*outputs, _REPLACED, _DONE, _RUN):
                remove(root / name)
        if not _is_run(root):
            write_bytes(root / _RUN, to_toml(settings).encode())
        changed = differences(read_toml(root / _RUN), self._settings)
        if changed:
            # run.toml goes last: a start that is killed here finds the same changes again.
            self._set_aside((on_change or self._refuse)(changed))
            write_bytes(root / _RUN, to_toml(settings).encode())

    def _refuse(self, changed: list[str]) -> list[str]:
        raise other_settings(self.root, changed)

    def _set_aside(self, names: list[str]) -> None:
        there = [name for name in names if (self.root / name).exists()]
        if not there:
            return
        _require_idle(self.root)
        number = next(n for n in count(1) if not (self.root / _REPLACED / str(n)).exists())
        aside = self.root / _REPLACED / str(number)
        for name in there:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).rename(aside / name)
        self.console.print(f"What no longer fits was moved to {aside}/; delete it when you like.", highlight=False)

    def done(self, step: str) -> dict[str, Any] | None:
        """What a finished step reported, with `seconds`; None when it is not finished, or its marker is damaged."""
        return finished_report(self.root, step)

    def step(
        self, name: str, title: str, work: Callable[[], dict[str, Any]], products: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Do a step unless it is done and all its products are there; returns what it reported.

        `work` may report `earlier_seconds`, spent on the step in starts that were interrupted.

        Args:
            name: of the marker.
            title: for people.
            work: does the step; returns what is worth keeping.
            products: paths below the root that the step makes.
        """
        finished = self.finished(name, products)
        if finished is not None:
            self.console.print(f"[dim]{title}: done before, {finished['seconds']:.1f} s[/dim]", highlight=False)
            return finished
        with self._alone(name):
            finished = self.finished(name, products)  # by another run, until now
            if finished is not None:
                return finished
            self.console.print(f"[bold]{title}[/bold]", highlight=False)
            began = time.monotonic()
            report = work()
            seconds = time.monotonic() - began + report.pop("earlier_seconds", 0.0)
            report = {"seconds": seconds, **report}
            self.world.on_rank0(lambda: write_json(self.root / _DONE / f"{name}.json", report))
        return report

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Keep other runs in the same directory from the same step.

        Raises:
            AlitokError: one is at it.
        """
        with ExitStack() as stack:
            self.world.on_rank0(lambda: stack.enter_context(_held(self.root, self.root / _DONE / f".{name}.lock")))
            yield

    def finished(self, name: str, products: Iterable[str]) -> dict[str, Any] | None:
        """What a step reported, if it is done and all its products are there; the same on every process."""
        return self.world.on_rank0(lambda: finished_report(self.root, name, products))


def require_place(root: Path) -> None:
    """Check that a run may be in `root`.

    Raises:
        AlitokError: `root` is a file, or holds things that are not a run's.
    """
    if root.exists() and not root.is_dir():
        raise AlitokError(f"{root} is a file; give a directory to write to with --out.")
    if root.exists() and not _is_run(root) and any(root.iterdir()):
        raise AlitokError(f"{root} holds other files and no run of alitok; give a new or empty directory with --out.")


def _require_idle(root: Path) -> None:
    """Check that no other run is at work in `root`, before anything there is moved or deleted."""
    for lock in sorted((root / _DONE).glob(".*.lock")):
        with _held(root, lock):
            pass


@contextmanager
def _held(root: Path, lock: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, _PATIENCE))
        except TimeoutError:
            raise AlitokError(
                f"Another process is at work in {root} ({lock.stem.removeprefix('.')}); wait for its end, or give "
                "another directory with --out."
            ) from None
        yield


def _is_run(root: Path) -> bool:
    """Whether `root` holds a run: a `run.toml` with the keys that every run has."""
    path = root / _RUN
    return path.is_file() and read_toml(path).keys() >= {"data", "recipe"}


def finished_report(root: Path, name: str, products: Iterable[str] = ()) -> dict[str, Any] | None:
    """What a step of the run in `root` reported, with `seconds`.

    None when it is not finished, its marker is damaged, or one of its products is gone: the step is then done again.
    """
    marker = root / _DONE / f"{name}.json"
    if not marker.exists() or not all((root / product).exists() for product in products):
        return None
    try:
        report = read_json(marker)
    except AlitokError:  # half of a file, as of a full disk
        return None
    return report if isinstance(report, dict) and "seconds" in report else None


def other_settings(root: Path, changed: list[str], way: str = ", or start over (alitok fit --fresh)") -> AlitokError:
    """The error for a run that is asked to go on with other settings; `way` is what helps beside another directory."""
    told = ", ".join(_TOLD.get(path, path) for path in changed if path != "contents" or "data" not in changed)
    return AlitokError(f"{root} holds a run with other settings ({told}); choose another directory with --out{way}.")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The key paths on which two nested mappings differ."""
    paths = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            paths += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            paths.append(prefix + key)
    return paths
