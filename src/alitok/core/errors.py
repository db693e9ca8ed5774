"""The exceptions meant for users, and what others' exceptions say in a line."""

from __future__ import annotations


class AlitokError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence or two: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


class ToldElsewhereError(AlitokError):
    """Another process of the run failed and tells why; this one only ends."""


def said(error: BaseException, *, whole: bool = False) -> str:
    """What an exception of a library says, in one line: its first one, or all of them where they are one sentence.

    An exception without words gives its kind.
    """
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split()) if whole else text.splitlines()[0]
