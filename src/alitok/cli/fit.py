"""`alitok fit`: from images to models and a report, in one command."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from alitok.cli import typed_command
from alitok.run.options import FitOptions

_DEFAULT = FitOptions()


def fit(source: str, /, *, options: Annotated[FitOptions, Parameter(name="*")] = _DEFAULT) -> None:
    """Train stage 1, stage 2 and the generator on your images, generate samples, measure them, and write a report.

    The steps and the estimated time on this machine are printed first. A rerun resumes; with other options it redoes
    the steps that depend on them and moves what it replaces to OUT/replaced/.

    Args:
        source: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        options: how.
    """
    from alitok.run.fit import run_fit

    run_fit(source, options, command=typed_command())
