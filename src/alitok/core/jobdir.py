"""The output directory of a job: a settings file, and the rules for sharing, resuming and clearing the directory.

    job = JobDir(out, "probe.json", "probe", outputs=("maps.npz", "report.html"), marker={"kind": "probe"})
    settings = job.begin({"tokenizer": str(path), "data": data}, world, fresh=options.fresh)
    with job.lock(world):
        ...  # write outputs below `job.root` with `core.files`

Settings that the first start chooses, such as a batch size, are listed in `decided`: read them with `job.read()`, pass
what was found or chosen to `begin`, and use what it returns.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alitok.core.config import read_toml, to_toml
from alitok.core.errors import AlitokError
from alitok.core.files import create_bytes, read_json, remove, write_bytes
from alitok.core.lock import locked

if TYPE_CHECKING:
    from alitok.core.distributed import World

LOCKS = ".locks"
_TIMEOUT = 20.0  # seconds; child processes of a killed holder keep its lock until they notice
_VALUE_LENGTH = 60  # characters of a value in a message
_EXPLAINED = {"contents": "contents (images were added, removed, relabelled or changed)"}
_RESTART = "choose another directory with --out, or start over with --fresh"


@dataclass(frozen=True)
class JobDir:
    """A directory that one job writes; `--fresh` deletes its outputs, its settings file and nothing else."""

    root: Path  # created by `begin`
    file: str  # name of the settings file in it, .toml or .json
    kind: str  # for messages: "an alitok KIND directory"
    outputs: tuple[str, ...] = ()  # all that the job writes, relative to `root`; a name with a `*` is a glob pattern
    marker: Mapping[str, Any] = field(default_factory=dict)  # settings that identify the kind of job; None: any value
    decided: tuple[str, ...] = ()  # settings that the first start decides, and that later ones take over
    allowed: tuple[str, ...] = ()  # names in `root` that may exist before the job begins
    shared: bool = False  # `root` also holds files of others, so that only existing outputs are foreign

    @property
    def path(self) -> Path:
        """The settings file."""
        return self.root / self.file

    def read(self) -> dict[str, Any] | None:
        """The settings of the job in `root`, or None where no job has begun.

        Raises:
            AlitokError: `root` is a file, holds foreign files, or its settings file is damaged or of another kind.
        """
        if self.path.is_file():
            found = read_toml(self.path) if self.path.suffix == ".toml" else read_json(self.path)
            marked = isinstance(found, dict) and all(
                name in found and value in (None, found[name]) for name, value in self.marker.items()
            )
            if not marked:
                raise AlitokError(f"{self.path} was not written by alitok {self.kind}; give another path with --out.")
            return found
        if self.root.exists() and not self.root.is_dir():
            raise AlitokError(f"{self.root} is a file; give a directory with --out.")
        if self._foreign():
            if self.shared:
                place = self.root / self.outputs[0]
                raise AlitokError(f"{place} exists and was not written by alitok {self.kind}; give another --out.")
            raise AlitokError(
                f"{self.root} is not empty and is not an alitok {self.kind} directory; give a new or empty one with "
                "--out."
            )
        return None

    def _foreign(self) -> bool:
        if self.shared:
            return any(True for _ in self._existing(self.outputs))
        names = (path.name for path in self.root.iterdir()) if self.root.exists() else ()
        return any(name not in self.allowed and not name.startswith(".") for name in names)

    def begin(self, settings: Mapping[str, Any], world: World, *, fresh: bool = False) -> dict[str, Any]:
        """Create the job, or resume it, on rank 0; every rank calls this and gets the stored settings.

        `settings` is everything that decides the outputs; `fresh` deletes what an earlier job left first.

        Raises:
            AlitokError: the directory cannot be used, holds a job with other settings, or another process uses it.
        """

        def prepare() -> dict[str, Any]:
            found = self.read()
            if found is None:
                create_bytes(self.path, self._encode(settings))
            elif fresh:
                self._clear()
                self.rewrite(settings)
            found = self.read()  # of another process, if it began at the same moment
            assert found is not None
            changed = self.conflicts(found, settings)
            if changed:
                raise self.conflict(changed, found, settings)
            return found

        return world.on_rank0(prepare)

    def rewrite(self, settings: Mapping[str, Any]) -> None:
        """Replace the stored settings."""
        write_bytes(self.path, self._encode(settings))

    def _encode(self, settings: Mapping[str, Any]) -> bytes:
        constants = {name: value for name, value in self.marker.items() if value is not None}
        values = {**constants, **settings}
        return (to_toml(values) if self.path.suffix == ".toml" else json.dumps(values, indent=2) + "\n").encode()

    def stored(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as the file would return them, where a tuple is a list and TOML has no None."""
        text = self._encode(settings).decode()
        return tomllib.loads(text) if self.path.suffix == ".toml" else json.loads(text)

    def conflicts(self, found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
        """Key paths in which stored settings differ from others."""
        old, new = ({**values} for values in (found, self.stored(settings)))
        for name in self.decided:
            old.pop(name, None)
            new.pop(name, None)
        return list(differences(old, new))

    def conflict(
        self, changed: Collection[str], found: Mapping[str, Any], settings: Mapping[str, Any], hint: str = _RESTART
    ) -> AlitokError:
        """The error that names the key paths in which `settings` differ from the stored ones."""
        values = differences(found, self.stored(settings))
        listed = [
            _EXPLAINED.get(path, path + _values(*values.get(path, (None, None))))
            for path in changed
            if path != "contents" or "data" not in changed
        ]
        place = self.path if self.shared else self.root
        return AlitokError(f"{place} was begun with conflicting settings: {', '.join(listed)}; {hint}.")

    def discard(self) -> None:
        """Delete the job, and `root` if nothing else is left; where outputs depend on stored settings, `replace` them.

        Raises:
            AlitokError: there is something else than this kind of job, or another process is at work there.
        """
        if self.read() is None:
            return
        self._clear()
        remove(self.path)  # last: what an interrupted removal leaves is still recognized as a job
        if not self.shared:
            _remove_empty(self.root)

    def _clear(self) -> None:
        self.require_idle()
        leftovers = () if self.shared else (".*.part",)  # of killed processes
        for path in self._existing((*self.outputs, *leftovers)):
            remove(path)
            for parent in path.parents:
                if parent == self.root:
                    break
                _remove_empty(parent)
        remove(self._locks)
        _remove_empty(self._locks.parent)

    def _existing(self, names: Iterable[str]) -> Iterator[Path]:
        for name in names:
            found = list(self.root.glob(name)) if "*" in name else [self.root / name]
            yield from (path for path in found if path.exists() or path.is_symlink())

    @contextmanager
    def lock(self, world: World, name: str = "job", timeout: float | None = None) -> Iterator[None]:
        """Keep other processes from the same job, or from the part `name` of it; rank 0 holds the lock for all.

        Raises:
            AlitokError: another process holds it for longer than `timeout` seconds, 20 by default.
        """
        with ExitStack() as stack:
            world.on_rank0(lambda: self._hold(stack, self._locks / name, timeout))
            yield

    @property
    def _locks(self) -> Path:
        return self.root / LOCKS / self.file

    def require_idle(self, timeout: float | None = None) -> None:
        """Raise AlitokError if a process is at work in `root`."""
        with ExitStack() as stack:
            for path in sorted(self._locks.glob("*")):
                self._hold(stack, path, timeout)

    def _hold(self, stack: ExitStack, path: Path, timeout: float | None) -> None:
        try:
            stack.enter_context(locked(path, _TIMEOUT if timeout is None else timeout))
        except TimeoutError:
            raise AlitokError(
                f"Another process is at work in {self.root} ({path.name}); wait for it to end, or give another "
                "directory with --out."
            ) from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The key paths in which two nested mappings differ, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[prefix + key] = before, after
    return found


def _values(before: Any, after: Any) -> str:
    """Both values in parentheses, where they can be read at a glance."""
    texts = ["unset" if value is None else str(value) for value in (before, after)]
    short = all(not isinstance(value, dict | list) and len(str(value)) <= _VALUE_LENGTH for value in (before, after))
    return f" ({texts[0]}, now {texts[1]})" if short else ""


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):  # not empty
        directory.rmdir()
