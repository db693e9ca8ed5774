"""`alitok demo`: the whole system on small real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alitok.cli import typed_command
from alitok.core.files import file_name
from alitok.run.options import DemoOptions, FitOptions

_DEFAULT = DemoOptions()


def demo(*, data: str = "digits", options: Annotated[DemoOptions, Parameter(name="*")] = _DEFAULT) -> None:
    """Train stage 1, stage 2 and the generator, generate samples, measure them, and write a report.

    This is `alitok fit` on images that come with libraries, in runs/demo. A rerun resumes, or prints the metrics of a
    finished run.

    Args:
        data: `digits`, `photos`, or anything that `alitok fit` takes.
        options: how.
    """
    from alitok.run.fit import run_fit

    out = options.out or Path("runs", "demo" if data == "digits" else f"demo-{file_name(data)}")
    run_fit(data, FitOptions(**vars(replace(options, out=out))), command=typed_command())
