"""The directory of a whole run, and its steps: each is done once, marked, and skipped when the run is started again.

Enters: what was asked for (data, seed, recipe). Leaves: `run.toml` with the resolved configuration, and
`done/STEP.json` for each finished step with its seconds and what it reported.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from alitok.core.config import read_toml, to_toml
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, remove, write_bytes, write_json

_RUN, _DONE = "run.toml", "done"


class Workspace:
    """The place of one run.

    Args:
        root: its directory; made when missing.
        settings: all that decides the results, as nested mappings for `run.toml`.
        outputs: the names in `root` that the run writes, and that `fresh` may delete.
        fresh: throw away what an earlier run left in `root`.
        protected: key paths of the settings that must be those of the run that `root` holds, with all below them;
            other settings are taken over. None protects all.
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
        protected: tuple[str, ...] | None = None,
    ) -> None:
        self.root, self.console, self.world = root, console, world
        self._settings = tomllib.loads(to_toml(settings))
        world.together(lambda: self._prepare(settings, outputs, fresh, protected))

    def _prepare(
        self, settings: dict[str, Any], outputs: Iterable[str], fresh: bool, protected: tuple[str, ...] | None
    ) -> None:
        root = self.root
        if root.exists() and not root.is_dir():
            raise AlitokError(f"{root} is a file; give a directory to write to with --out.")
        if root.exists() and not self._is_run() and any(root.iterdir()):
            raise AlitokError(
                f"{root} holds other files and no run of alitok; give a new or empty directory with --out."
            )
        if fresh and root.exists():
            # run.toml goes last: what a killed removal leaves behind is still known to be a run's.
            for name in (*outputs, _DONE, _RUN):
                remove(root / name)
        if not self._is_run():
            write_bytes(root / _RUN, to_toml(settings).encode())
        different = _differences(read_toml(root / _RUN), self._settings)
        changed = different if protected is None else [path for path in different if _below(path, protected)]
        if changed:
            raise AlitokError(
                f"{root} holds a run with other settings ({', '.join(changed)}); "
                "start over with --fresh, or choose another directory with --out."
            )
        if different:
            write_bytes(root / _RUN, to_toml(settings).encode())

    def _is_run(self) -> bool:
        """Whether `root` holds a run: a `run.toml` with the keys that this one has."""
        path = self.root / _RUN
        return path.is_file() and self._settings.keys() <= read_toml(path).keys()

    def done(self, step: str) -> dict[str, Any] | None:
        """What a finished step reported, with `seconds`; None when it is not finished, or its marker is damaged."""
        marker = self.root / _DONE / f"{step}.json"
        if not marker.exists():
            return None
        report = read_json(marker)
        return report if isinstance(report, dict) and "seconds" in report else None

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
        finished = self.world.together(lambda: self._finished(name, products))
        if finished is not None:
            self.console.print(f"[dim]{title}: done before, {finished['seconds']:.1f} s[/dim]", highlight=False)
            return finished
        self.console.print(f"[bold]{title}[/bold]", highlight=False)
        began = time.monotonic()
        report = work()
        seconds = time.monotonic() - began + report.pop("earlier_seconds", 0.0)
        report = {"seconds": seconds, **report}
        self.world.together(lambda: write_json(self.root / _DONE / f"{name}.json", report))
        return report

    def _finished(self, name: str, products: Iterable[str]) -> dict[str, Any] | None:
        whole = all((self.root / product).exists() for product in products)
        return self.done(name) if whole else None


def _below(path: str, protected: tuple[str, ...]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in protected)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The key paths on which two nested mappings differ."""
    paths = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            paths += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            paths.append(prefix + key)
    return paths
