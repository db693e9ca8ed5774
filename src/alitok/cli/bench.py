"""`alitok bench`: how fast images are sampled here, and how fast they could be."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from alitok.apps.bench.options import BenchOptions

_DEFAULTS = BenchOptions()


def bench(model: str | None = None, /, *, options: Annotated[BenchOptions, Parameter(name="*")] = _DEFAULTS) -> None:
    """Time whole images, codes and pixels, beside this machine's bandwidth and matrix products in the same run.

    Random weights are as fast as trained ones, so a preset needs no model. A batch that does not fit is rejected with
    the largest that does.

    Args:
        model: a saved pipeline, by its directory or its name on the hub.
        options: what to measure.
    """
    from alitok.apps.bench.bench import print_bench

    print_bench(replace(options, model=model))
