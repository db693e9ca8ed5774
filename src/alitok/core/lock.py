"""Locks between processes: whoever holds a file's lock is alone until it lets go or dies.

Enters: a path. Leaves: a context.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_EVERY = 0.2  # seconds


@contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of `path`, a file that is made for it and stays; on a disk without locks nobody is kept out.

    The system lets go of it when the process dies, and with it those that it forked.

    Args:
        path: the file.
        patience: seconds that another holder is waited for; None waits without end.

    Raises:
        TimeoutError: another holder is at it for longer.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # whose time stays
        end = None if patience is None else time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if end is None else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError(str(path)) from None
                time.sleep(_LOOK_EVERY)
            except OSError:  # a disk without locks
                break
        try:
            yield
        finally:
            _let_go(file.fileno())


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


def _let_go(descriptor: int) -> None:
    """Also for processes that were forked meanwhile and have the file open too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return
