"""The exceptions meant for users."""


class AlitokError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence or two: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


class ToldElsewhereError(AlitokError):
    """Another process of the run failed and tells why; this one only ends."""
