"""The `alitok` command. Each command is a thin module here that calls one function of a room below.

Users' mistakes end in one sentence on the error stream and status 2; `--debug` shows the traceback instead.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated

from cyclopts import App, Parameter

from alitok import __version__
from alitok.core.errors import AlitokError

app = App(
    name="alitok",
    help="Predictable image codes: train a tokenizer and a generator on your pictures, and draw new ones.",
    version=__version__,
)
app.command(
    "alitok.cli.demo:demo",
    name="demo",
    help="Train, sample and measure the whole system on real pictures, small.",
)
app.command(
    "alitok.cli.convert:app",
    name="convert",
    help="Released weights to alitok's own files, and back.",
)
app.command(
    "alitok.cli.models:models",
    name="models",
    help="List the named models: sizes, parameters, published and measured gFID.",
)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run a command.

    Args:
        tokens: the command and its arguments.
        debug: show the traceback of an error.
    """
    try:
        app(tokens)
    except KeyboardInterrupt as stop:
        if debug:
            raise
        detail = f" ({stop})" if str(stop) else ""
        return _fail(f"Interrupted{detail}. What was finished is kept; the same command continues from there.", 130)
    except AlitokError as error:
        if debug:
            raise
        return _fail(str(error), 2)
    except OSError as error:
        if debug:
            raise
        return _fail(_system_error(error), 2)
    return 0


def _system_error(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{place}. Free some space and run the same command: finished checkpoints are kept."
    return f"{error.strerror or error}{place}. Check the path and its permissions, then run the same command."


def _fail(sentence: str, status: int) -> int:
    print(f"alitok: {sentence}", file=sys.stderr)  # noqa: T201 (the command line speaks)
    return status


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app.meta())
