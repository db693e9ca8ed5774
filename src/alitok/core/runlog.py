"""The run log: `metrics.jsonl`, `images/NAME-STEP.png`, `curves/NAME-STEP.json`, and `tensorboard/` if installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core import images
from alitok.core.files import finite, write_bytes, write_json


class RunLog:
    """Writes one run's numbers and images; use as a context manager.

    Records after `resume_step` are dropped: an interrupted run wrote them after its last checkpoint.
    """

    def __init__(self, directory: Path, resume_step: int = 0) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._open(resume_step)

    def _open(self, resume_step: int) -> None:
        path = self.directory / "metrics.jsonl"
        records = [record for record in read_metrics(path) if record["step"] <= resume_step]
        write_bytes(path, "".join(map(_line, records)).encode())
        self._lines = path.open("a", encoding="utf-8")
        self._board: Any = None
        with suppress(ImportError):  # an extra: alitok[tensorboard]
            from torch.utils.tensorboard import SummaryWriter

            purge = resume_step + 1 if resume_step else None
            self._board = SummaryWriter(str(self.directory / "tensorboard"), purge_step=purge)

    def forget_after(self, step: int) -> None:
        """Drop the records after `step`: training went back to it."""
        self._close()
        self._open(step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        self._lines.close()
        if self._board is not None:
            self._board.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step; in the file NaN and infinity are null, which JSON has instead."""
        self._lines.write(_line({"step": step, **values}))
        self._lines.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def curve(self, step: int, name: str, values: Sequence[float]) -> None:
        """Record a list of numbers, such as one for each position of a sequence."""
        path = self.directory / "curves" / f"{name}-{step:06d}.json"
        write_json(path, finite({"step": step, name: list(values)}))

    def image(self, step: int, name: str, image: np.ndarray, scale: int = 1) -> None:
        """Record an image (3, h, w) uint8, enlarged `scale` times in the PNG."""
        write_bytes(self.directory / "images" / f"{name}-{step:06d}.png", images.png_bytes(image, scale))
        if self._board is not None:
            self._board.add_image(name, image, step)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(finite(dict(record)), allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl`, oldest first, without a last line cut short by a crash; None = not finite."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records
