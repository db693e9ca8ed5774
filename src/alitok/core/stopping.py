"""SIGTERM outside of the trainings' loop, which has its own way: what is half written goes, what is finished stays.

Enters: nothing. Leaves: a context in which SIGTERM ends the work as Ctrl-C does, and the command with status 0.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The system asked to stop."""

    terminated = True  # what the command line asks of any interruption


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM raises `Terminated` while the context lasts, so that files half written are removed on the way out."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated("what is finished stays")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
