"""The command as it was typed, for reports and cards."""

from __future__ import annotations

import shlex
import sys


def typed_command() -> str:
    """The command line of this process, ready to be pasted into a shell."""
    return shlex.join(["alitok", *sys.argv[1:]])
