"""The exceptions meant for users, and the messages of other libraries' exceptions."""

from __future__ import annotations


class AlitokError(ValueError):
    """A mistake that the user can fix; the command line prints the message without a traceback and exits with 2."""


class OtherRankError(AlitokError):
    """Rank 0 failed and reports why; this process only ends."""


def error_text(error: BaseException, *, whole: bool = False) -> str:
    """An exception's first line, or all lines joined; its type where it has no message."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split()) if whole else text.splitlines()[0]
