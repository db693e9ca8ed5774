"""Curves and images of a training run, for the page; only files of known names in known directories are read."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from alitok.core.errors import AlitokError
from alitok.core.runlog import read_metrics

_STAGES = ("stage1", "stage2", "generator")
_IMAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,99})-(\d{6,12})\.png")
_MAX_POINTS = 1000  # of a curve
_MAX_IMAGES = 200  # of a stage, the newest
_MAX_BYTES = 64 << 20  # of a log or image; larger ones are skipped

Curves = dict[str, list[tuple[float, float]]]


class RunView:
    """Reads a run directory with some of `stage1/`, `stage2/`, `generator/`; `AlitokError` if it is not a directory."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise AlitokError(f"{directory} is not a run directory; check the path.")
        self._root = directory.resolve()
        self._cache: dict[str, tuple[tuple[int, int], Curves]] = {}  # (time, size) of the log, and its curves

    def describe(self) -> dict[str, Any]:
        """Curves and images by stage, as JSON."""
        stages = [stage for stage in _STAGES if self._inside(self._root / stage) and (self._root / stage).is_dir()]
        return {"stages": {stage: {"curves": self._curves(stage), "images": self._images(stage)} for stage in stages}}

    def image(self, stage: str, name: str) -> bytes | None:
        """The PNG file of an image; None if it does not exist."""
        if stage not in _STAGES or not _IMAGE.fullmatch(name):
            return None
        path = self._root / stage / "images" / name
        try:
            return path.read_bytes() if self._readable(path) else None
        except OSError:  # deleted meanwhile
            return None

    def _curves(self, stage: str) -> Curves:
        path = self._root / stage / "metrics.jsonl"
        try:
            if not self._readable(path):
                return {}
            state = path.stat()
            mark = (state.st_mtime_ns, state.st_size)
            if stage not in self._cache or self._cache[stage][0] != mark:
                self._cache[stage] = mark, _curves(read_metrics(path))
            return self._cache[stage][1]
        except (OSError, UnicodeDecodeError):  # deleted meanwhile, or not a log
            return {}

    def _images(self, stage: str) -> list[dict[str, Any]]:
        folder = self._root / stage / "images"
        if not self._inside(folder) or not folder.is_dir():
            return []
        matches = [match for path in folder.iterdir() if (match := _IMAGE.fullmatch(path.name))]
        newest = sorted(matches, key=lambda match: (int(match[2]), match[1]))[-_MAX_IMAGES:]
        return [
            {"step": int(match[2]), "name": match[1], "url": f"/v1/run/images/{stage}/{match[0]}"}
            for match in newest
            if self._readable(folder / match[0])
        ]

    def _readable(self, path: Path) -> bool:
        return self._inside(path) and path.is_file() and path.stat().st_size <= _MAX_BYTES

    def _inside(self, path: Path) -> bool:
        """Whether no link on the way leads elsewhere."""
        return path.resolve() == path and path.is_relative_to(self._root)


def _curves(records: list[dict[str, Any]]) -> Curves:
    curves: Curves = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and _is_number(value) and _is_number(record["step"]):
                curves.setdefault(name, []).append((record["step"], value))
    strides = {name: -(-len(points) // _MAX_POINTS) for name, points in curves.items()}
    return {name: points[::-1][:: strides[name]][::-1] for name, points in curves.items()}  # includes the last point


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
