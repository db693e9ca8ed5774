"""Files that are either whole or absent: everything is written beside its place, synced, and renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alitok.core.errors import AlitokError

_PART, _OLD = ".part", ".old"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # of file systems without hard links


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or directory; on success it is renamed, on any error removed.

    What already stands at `path` stays until the new one is whole, and is put back if the last step fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{_mine()}{_PART}")
    remove(part)  # of a killed process with the same number
    try:
        yield part
        commit(part, path)
    except BaseException:
        remove(part)
        raise


def _mine() -> str:
    """An identifier of this process on a shared disk; in containers process numbers alone are often equal."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', platform.node())}-{os.getpid()}"


def commit(part: Path, path: Path) -> None:
    """Give a finished file or directory its name; what stood there is put back if that fails."""
    old = path.with_name(f".{path.name}.{_mine()}{_OLD}")
    remove(old)
    try:
        for written in [part, *part.rglob("*")] if part.is_dir() else [part]:
            _sync(written)
        if path.is_dir():  # a directory cannot be renamed over
            path.replace(old)
        part.replace(path)
        _sync(path.parent)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        raise
    finally:
        if path.exists():
            remove(old)


def remove(path: Path) -> None:
    """Delete a file, a directory with all it holds, or nothing; a link goes, not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def create_bytes(path: Path, data: bytes) -> bool:
    """Write a new file, whole or not at all; False where it exists already: of several writers the first one wins."""
    part = path.with_name(f".{path.name}.{_mine()}-{threading.get_ident()}{_PART}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(data)
        _sync(part)
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        part.replace(path)  # without hard links the last writer wins
    finally:
        remove(part)
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def finite(value: Any) -> Any:
    """Nested values for JSON, which has neither NaN nor infinity: these become None; tuples become lists."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file; AlitokError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AlitokError(f"{path} does not exist; check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AlitokError(f"{path} is not valid JSON ({error}); restore or delete it.") from None


def file_name(text: str) -> str:
    """A name for files and folders from a path, an address or any other text."""
    last = str(Path(text.partition("?")[0]).resolve()).rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).strip("._") or "data"


def sha256(path: Path) -> str:
    """The checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
