"""File locks between processes, released when the holder ends.

Not by the library filelock (3.16): on a disk without locks it waits forever, and a fork releases its parent's lock.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL = 0.2  # seconds


@contextmanager
def locked(path: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold the lock of `path`, a file that is created for it and stays; without effect on a disk without locks.

    The system releases it when the process and those that it forked have died. `timeout` in seconds; None = forever.

    Raises:
        TimeoutError: another process holds it for longer.
        OSError: the file cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # does not change its time
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if end is None else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError(str(path)) from None
                time.sleep(_POLL)
            except OSError:  # a disk without locks
                break
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # also for forked processes that have the file open


def mark_in_use(descriptor: int) -> None:
    """Mark an open file as in use until it is closed; see `try_lock_unused`."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def try_lock_unused(descriptor: int) -> bool:
    """Lock an open file until it is closed, unless some process has marked it as in use."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
