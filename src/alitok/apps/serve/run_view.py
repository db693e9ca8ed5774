"""What a training left in its run directory: curves and images, for the page.

Only files of known names in known folders below the run are ever read. Enter: the run's directory. Leave: JSON, and the
bytes of images.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics

STAGES = ("stage1", "stage2", "generator")
_IMAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,99})-(\d{6,12})\.png")
_MOST_POINTS = 1000  # of a curve
_MOST_IMAGES = 200  # of a stage, the newest
_MOST_BYTES = 64 << 20  # of a record or image; larger ones are passed over


class RunView:
    """Reads one run directory, as it is when asked.

    Args:
        directory: with `stage1/`, `stage2/`, `generator/`, or some of them.

    Raises:
        AlitokError: it is no directory.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise AlitokError(f"{directory} is no directory of a run; check the path.")
        self._root = directory.resolve()
        self._seen: dict[str, tuple[tuple[int, int], dict[str, list[tuple[float, float]]]]] = {}

    def describe(self) -> dict[str, Any]:
        """Curves and images by stage, as JSON."""
        there = [stage for stage in STAGES if self._inside(self._root / stage) and (self._root / stage).is_dir()]
        return {"stages": {stage: {"curves": self._curves(stage), "images": self._images(stage)} for stage in there}}

    def image(self, stage: str, name: str) -> bytes | None:
        """The PNG file of an image; None where there is none of this name."""
        if stage not in STAGES or not _IMAGE.fullmatch(name):
            return None
        path = self._root / stage / "images" / name
        try:
            return path.read_bytes() if self._readable(path) else None
        except OSError:  # it went since
            return None

    def _curves(self, stage: str) -> dict[str, list[tuple[float, float]]]:
        path = self._root / stage / "metrics.jsonl"
        try:
            if not self._readable(path):
                return {}
            state = path.stat()
            mark = (state.st_mtime_ns, state.st_size)
            if stage not in self._seen or self._seen[stage][0] != mark:
                self._seen[stage] = mark, _curves(read_metrics(path))
            return self._seen[stage][1]
        except (OSError, UnicodeDecodeError):  # it went since, or is no log
            return {}

    def _images(self, stage: str) -> list[dict[str, Any]]:
        folder = self._root / stage / "images"
        if not self._inside(folder) or not folder.is_dir():
            return []
        matches = [found for path in folder.iterdir() if (found := _IMAGE.fullmatch(path.name))]
        newest = sorted(matches, key=lambda found: (int(found[2]), found[1]))[-_MOST_IMAGES:]
        return [
            {"step": int(found[2]), "name": found[1], "url": f"/v1/run/images/{stage}/{found[0]}"}
            for found in newest
            if self._readable(folder / found[0])
        ]

    def _readable(self, path: Path) -> bool:
        return self._inside(path) and path.is_file() and path.stat().st_size <= _MOST_BYTES

    def _inside(self, path: Path) -> bool:
        """Whether a path is where its name says: no link leads out of the run."""
        return path.resolve() == path and path.is_relative_to(self._root)


def _curves(records: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and _number(value) and _number(record["step"]):
                curves.setdefault(name, []).append((record["step"], value))
    return {name: _thinned(points) for name, points in curves.items()}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many, evenly chosen, the last among them."""
    every = -(-len(points) // _MOST_POINTS)
    return points[::-1][::every][::-1]
