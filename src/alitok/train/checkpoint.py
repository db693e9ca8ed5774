"""Training states on disk, written and read by all processes: torch's distributed checkpoints with checksums.

    step-00001000/           whole or absent; the last `keep` of them stay
        state.json           what the tensors do not say
        checksums.json       SHA-256 of every other file
        .metadata, *.distcp  torch.distributed.checkpoint

Enters: nested dicts of live tensors, sharded or whole. Leaves: the same tensors, filled in place.
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
    """The training states of one run.

    Args:
        directory: where they are.
        keep: how many stay.
        world: the processes that write and read together.
    """

    def __init__(self, directory: Path, keep: int, world: World) -> None:
        self.directory, self.keep, self.world = directory, keep, world

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, ascending."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.directory.glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is kept."""
        return self.directory / f"step-{step:08d}"

    def save(self, step: int, tensors: Groups, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then delete the oldest beyond `keep`.

        Raises:
            OSError: it cannot be written, as on a full disk; the checkpoints before it stay.
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
        """The state of the newest whole checkpoint, for `load`.

        Args:
            keys: what its state must hold.

        Returns:
            The state, None when there is no checkpoint; and a sentence for each newer one that was passed over.

        Raises:
            AlitokError: there are checkpoints and all of them are damaged.
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
            raise AlitokError(f"{damaged[0]} No other is left; delete {self.directory} to train this stage anew.")
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
            raise AlitokError(f"{path / _STATE} was written by another version: it lacks {', '.join(sorted(missing))}.")
        return state

    def load(self, step: int, tensors: Groups) -> None:
        """Fill `tensors` in place from a checkpoint that `latest` found whole.

        Raises:
            AlitokError: it does not hold these tensors.
        """
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*single process.*")
                dcp.load(dict(tensors), checkpoint_id=self.path(step), no_dist=self.world.size == 1)
        except CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            raise AlitokError(f"{self.path(step)} does not fit this training: {reason}") from None


def _make_empty(path: Path) -> None:
    remove(path)
    path.mkdir(parents=True)


def _system_error(error: CheckpointException, path: Path) -> Exception:
    """The first failure that the system reported, so that a full disk reads as one."""
    for failure, _ in error.failures.values():
        if isinstance(failure, OSError):
            return failure
    return OSError(f"{path} could not be written: {error}")
