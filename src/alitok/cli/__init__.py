"""The `alitok` command. Each command is a thin module here that calls one function of a room below.

Users' mistakes end in one sentence on the error stream and status 2; `--debug` shows the traceback instead.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from alitok import __version__
from alitok.core.errors import AlitokError, OtherRankError

app = App(
    name="alitok",
    help="Predictable image codes: train a tokenizer and a generator on your images, and draw new ones.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # told below, in a sentence
)

app.command(
    "alitok.cli.demo:demo",
    name="demo",
    help="Train, sample and measure the whole system on real images, small.",
)
app.command(
    "alitok.cli.fit:fit",
    name="fit",
    help="From a folder of images to models and a report, in one line.",
)
app.command(
    "alitok.cli.train:train",
    name="train",
    help="Train one stage of a run, in one process or under torchrun.",
)
app.command(
    "alitok.cli.plan:plan",
    name="plan",
    help="What a training on many GPUs takes: operations, memory, data, hours, scaling.",
)
app.command(
    "alitok.cli.data:app",
    name="data",
    help="Look at images before training on them, and at stored codes.",
)
app.command(
    "alitok.cli.encode:encode",
    name="encode",
    help="Write the codes of all images of a source, over any number of processes.",
)
app.command(
    "alitok.cli.sample:sample",
    name="sample",
    help="Draw many images to PNG, WebP or npz, over any number of processes.",
)
app.command(
    "alitok.cli.complete:complete",
    name="complete",
    help="Keep the first rows of an image and let a model continue it.",
)
app.command(
    "alitok.cli.serve:serve",
    name="serve",
    help="Serve a model by HTTP, with a page to draw with.",
)
app.command(
    "alitok.cli.eval:app",
    name="eval",
    help="Measure samples or reconstructions against real images, each with its own reference.",
)
app.command(
    "alitok.cli.ablate:ablate",
    name="ablate",
    help="Show what each part of the idea does, on your own images.",
)
app.command(
    "alitok.cli.probe:probe",
    name="probe",
    help="Map which patch of an image moves which code, of any tokenizer.",
)
app.command(
    "alitok.cli.convert:app",
    name="convert",
    help="Released weights to alitok's own files, and back.",
)
app.command(
    "alitok.cli.bench:bench",
    name="bench",
    help="Time whole images, beside the limits of this machine.",
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
    except BaseException as error:
        if debug or isinstance(error, SystemExit):
            raise
        return _explain(error, tokens)
    return 0


def _explain(error: BaseException, tokens: Sequence[str]) -> int:
    """Print one sentence for an error of the command `tokens`; returns the exit status."""
    again = "run the same command again" + " without --fresh" * ("--fresh" in tokens)
    if isinstance(error, KeyboardInterrupt):
        if getattr(error, "terminated", False):  # by the system, which is told that nothing is lost
            return _fail(f"Asked to stop ({error}); {again} to continue.", 0)
        detail = f" ({error})" if str(error) else ""
        return _fail(f"Interrupted{detail}. What was finished is kept; {again} to continue.", 130)
    if isinstance(error, OtherRankError):
        return 2
    if isinstance(error, AlitokError):
        return _fail(str(error), 2)
    if isinstance(error, OSError):
        return _fail(_system_error(error, again), 2)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, not imported for this
        return _fail(f"The device has too little memory ({error}). Choose a smaller batch size.", 2)
    return _fail(
        f"Unexpected {type(error).__name__}: {error}. This should not happen; --debug shows where it came from.", 1
    )


def _system_error(error: OSError, again: str) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{place}. Free some space, then {again}; what was finished is kept."
    return f"{error.strerror or error}{place}. Check the path and its permissions, then {again}."


def _fail(sentence: str, status: int) -> int:
    if status in (0, 130) and os.environ.get("RANK", "0") != "0":
        return status  # all processes stop together; one says so
    print(f"alitok: {sentence}", file=sys.stderr)  # noqa: T201 (the command line speaks)
    return status


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app.meta())
