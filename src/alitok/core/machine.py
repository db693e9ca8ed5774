"""What the machine gives this process; PyTorch is not imported here, as readers of images do without it."""

from __future__ import annotations

import os
import sys


def cores() -> int:
    """CPU cores that this process may use, or all of the machine's where the system does not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    import resource  # which not every system has

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
