"""The directory of a whole run, and its steps: each is done once, marked, and skipped when the run is started again.

Enters: what was asked for (data, seed, recipe). Leaves: `run.toml` with the resolved configuration, and
`done/STEP.json` for each finished step with its seconds and what it reported.
"""

from __future__ import annotations

import shutil
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from alitok.core.config import read_toml, to_toml
from alitok.core.errors import AlitokError
from alitok.core.files import read_json, write_bytes, write_json

_RUN = "run.toml"


class Workspace:
    """The place of one run.

    Args:
        root: its directory; made when missing.
        settings: all that decides the results, as nested mappings for `run.toml`.
        fresh: throw away what an earlier run left in `root`.
        console: where progress is told.

    Raises:
        AlitokError: `root` is a file, holds things that are not a run's, or holds a run with other settings.
    """

    def __init__(self, root: Path, settings: dict[str, Any], *, fresh: bool, console: Console) -> None:
        self.root, self.console = root, console
        run_file = root / _RUN
        if root.exists() and not root.is_dir():
            raise AlitokError(f"{root} is a file; give a directory to write to with --out.")
        if root.exists() and not run_file.exists() and any(root.iterdir()):
            raise AlitokError(
                f"{root} holds other files and no run of alitok; give a new or empty directory with --out."
            )
        if fresh and root.exists():
            shutil.rmtree(root)
        text = to_toml(settings)
        if run_file.exists():
            changed = _differences(read_toml(run_file), tomllib.loads(text))
            if changed:
                raise AlitokError(
                    f"{root} holds a run with other settings ({', '.join(changed)}); "
                    "start over with --fresh, or choose another directory with --out."
                )
        else:
            write_bytes(run_file, text.encode())

    def done(self, step: str) -> dict[str, Any] | None:
        """What a finished step reported, with `seconds`; None when it is not finished."""
        marker = self.root / "done" / f"{step}.json"
        return read_json(marker) if marker.exists() else None

    def step(self, name: str, title: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a step unless it is done; returns what it reported.

        `work` may report its own `seconds` (a training counts those before an interruption too).
        """
        finished = self.done(name)
        if finished is not None:
            self.console.print(f"[dim]{title}: done before, {finished['seconds']:.1f} s[/dim]", highlight=False)
            return finished
        self.console.print(f"[bold]{title}[/bold]", highlight=False)
        began = time.monotonic()
        report = work()
        report = {"seconds": time.monotonic() - began, **report}
        write_json(self.root / "done" / f"{name}.json", report)
        return report


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
