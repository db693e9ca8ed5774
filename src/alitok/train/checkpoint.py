"""Training checkpoints: `torch.distributed.checkpoint` with SHA-256 checksums, written and read by all ranks.

`step-00001000/` is complete or absent, and the last `keep` remain; its `state.json` has all that is not a tensor.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.files import commit, read_json, remove, sha256, write_json

Groups = Mapping[str, Mapping[str, torch.Tensor]]

_STATE, _SUMS = "state.json", "checksums.json"


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep: int, world: World) -> None:
        self.directory, self.keep, self.world = directory, keep, world

    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.directory.glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        """Path of the checkpoint of a step."""
        return self.directory / f"step-{step:08d}"

    def save(self, step: int, tensors: Groups, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then delete the oldest beyond `keep`.

        Raises:
            OSError: it cannot be written, as on a full disk; earlier checkpoints remain.
        """
        part = self.directory / f".{self.path(step).name}.part"
        self.world.on_rank0(lambda: _make_empty(part))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*single process.*")
                dcp.save(dict(tensors), checkpoint_id=part, no_dist=self.world.size == 1)
        except CheckpointException as error:
            raise _system_error(error, part) from error
        mine = "*" if self.world.size == 1 else f"__{self.world.rank}_*"
        sums = {file.name: sha256(file) for file in part.glob(mine)}
        for others in self.world.gather(sums):
            sums |= others
        self.world.on_rank0(lambda: self._finish(part, step, sums, {"step": step, **state}))

    def _finish(self, part: Path, step: int, sums: dict[str, str], state: Mapping[str, Any]) -> None:
        write_json(part / _STATE, state)
        for name in (_STATE, ".metadata"):
            sums[name] = sha256(part / name)
        write_json(part / _SUMS, sums)
        commit(part, self.path(step))
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))

    def latest(self, keys: Iterable[str]) -> tuple[dict[str, Any] | None, list[str]]:
        """State (with `keys`) of the newest complete checkpoint, or None, and a message for each newer one skipped.

        Raises:
            AlitokError: there are checkpoints, and all are damaged.
        """
        return self.world.on_rank0(lambda: self._latest(list(keys)))

    def _latest(self, keys: list[str]) -> tuple[dict[str, Any] | None, list[str]]:
        damaged: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self._checked(self.path(step), keys), damaged
            except AlitokError as error:
                damaged.append(f"Checkpoint {self.path(step)} cannot be used: {error}")
        if damaged:
            raise AlitokError(f"{damaged[0]} No other is left; delete {self.directory} to restart this stage.")
        return None, []

    def _checked(self, path: Path, keys: list[str]) -> dict[str, Any]:
        sums = read_json(path / _SUMS)
        if not isinstance(sums, dict) or not sums.keys() >= {_STATE, ".metadata"}:
            raise AlitokError(f"{path / _SUMS} is damaged.")
        for name, checksum in sums.items():
            if not (path / name).is_file():
                raise AlitokError(f"{path / name} is missing.")
            if sha256(path / name) != checksum:
                raise AlitokError(f"{path / name} is damaged (wrong checksum).")
        state = read_json(path / _STATE)
        missing = {"step", *keys} - (state.keys() if isinstance(state, dict) else set())
        if missing:
            raise AlitokError(f"{path / _STATE} is from another version: it lacks {', '.join(sorted(missing))}.")
        return state

    def load(self, step: int, tensors: Groups) -> None:
        """Fill `tensors` in place from a checkpoint found by `latest`.

        Raises:
            AlitokError: it does not contain these tensors.
        """
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*single process.*")
                dcp.load(dict(tensors), checkpoint_id=self.path(step), no_dist=self.world.size == 1)
        except CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            raise AlitokError(f"{self.path(step)} does not match this training: {reason}") from None


def _make_empty(path: Path) -> None:
    remove(path)
    path.mkdir(parents=True)


def _system_error(error: CheckpointException, path: Path) -> Exception:
    """The first OSError among the failures, so that a full disk is reported as such."""
    for failure, _ in error.failures.values():
        if isinstance(failure, OSError):
            return failure
    return OSError(f"{path} could not be written: {error}")
