"""This process and its machine: cores, memory, optional libraries and SIGTERM; free of PyTorch."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from alitok.core.errors import AlitokError

_PACKAGES: Mapping[str, str] = {"sklearn": "scikit-learn"}  # packages that are not called as their module


def cores() -> int:
    """CPU cores this process may use, or all of the machine's where the system does not report it, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory this process has used, in bytes."""
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def require_libraries(what: str, extra: str, *modules: str) -> None:
    """Check before hours of work that the modules needed at their end, all of one extra, are installed.

    Raises:
        AlitokError: one is missing; the message begins with `what`, such as "An evaluation".
    """
    missing = [_PACKAGES.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise AlitokError(f"{what} needs {', '.join(missing)}; install with pip install 'alitok[{extra}]'.")


class Terminated(KeyboardInterrupt):
    """The system sent SIGTERM."""

    terminated = True  # checked by the command line on any interruption


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM raises `Terminated` here, so that half-written files are removed; training has its own handler."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated("progress saved")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
