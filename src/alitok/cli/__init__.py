"""The `alitok` command. Each command is a thin module here that calls one function of a room below.

Users' mistakes end in one sentence on the error stream and status 2; `--debug` shows the traceback instead.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from alitok import __version__
from alitok.core.errors import AlitokError, OtherRankError

app = App(
    name="alitok",
    help="An image tokenizer with predictable codes, and an autoregressive generator over them.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # reported below, in a sentence
)

# Loaded when they are called. To remove an application, delete its row, its module here and its folder.
COMMANDS = {
    "demo": ("demo:demo", "Train, sample and evaluate the whole system on small built-in images."),
    "fit": ("fit:fit", "Train on your own images, from a folder to models and a report, in one line."),
    "train": ("train:train", "Train one stage of a run, in one process or under torchrun."),
    "plan": ("plan:plan", "Estimate FLOPs, memory, data, hours and scaling of a training on GPUs."),
    "data": ("data:app", "Inspect images before training on them, and stored codes."),
    "encode": ("encode:encode", "Write the codes of all images of a source, sharded across processes."),
    "sample": ("sample:sample", "Sample many images to PNG, WebP or npz, sharded across processes."),
    "complete": ("complete:complete", "Complete an image from its first rows."),
    "serve": ("serve:serve", "Serve a model over HTTP, with a page to try it in a browser."),
    "eval": ("eval:app", "Evaluate samples or reconstructions against real images, each with its own reference."),
    "ablate": ("ablate:ablate", "Measure what each part of the method does, on your own images."),
    "probe": ("probe:probe", "Map which patch of an image influences which code, for any tokenizer."),
    "convert": ("convert:app", "Convert released weights to alitok's own files, and back."),
    "bench": ("bench:bench", "Time whole images beside the limits of this machine."),
    "models": ("models:models", "List the named models: sizes, parameters, published and measured gFID."),
}
for _name, (_target, _help) in COMMANDS.items():
    app.command(f"alitok.cli.{_target}", name=_name, help=_help)


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
    again = "rerun the same command" + " without --fresh" * ("--fresh" in tokens)
    if isinstance(error, KeyboardInterrupt):
        if getattr(error, "terminated", False):  # by the system, with status 0: nothing is lost
            return _fail(f"Stopped ({error}); {again} to resume.", 0)
        detail = f" ({error})" if str(error) else ""
        return _fail(f"Interrupted{detail}. Progress saved; {again} to resume.", 130)
    if isinstance(error, OtherRankError):
        return 2
    if isinstance(error, AlitokError):
        return _fail(str(error), 2)
    if isinstance(error, OSError):
        return _fail(_system_error(error, again), 2)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, not imported for this
        return _fail(f"The device has too little memory ({error}). Choose a smaller batch size.", 2)
    return _fail(
        f"Unexpected {type(error).__name__}: {error}. This is a bug in alitok; --debug shows the traceback.", 1
    )


def _system_error(error: OSError, again: str) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{place}. Free some space, then {again}; progress is saved."
    return f"{error.strerror or error}{place}. Check the path and its permissions, then {again}."


def _fail(sentence: str, status: int) -> int:
    if status in (0, 130) and os.environ.get("RANK", "0") != "0":
        return status  # all ranks stop together; rank 0 reports it
    print(f"alitok: {'' if status in (0, 130) else 'error: '}{sentence}", file=sys.stderr)  # noqa: T201 (the command line speaks)
    return status


def typed_command() -> str:
    """The command line of this process, ready to be pasted into a shell."""
    return shlex.join(["alitok", *sys.argv[1:]])


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app.meta())
