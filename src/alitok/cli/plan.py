"""`alitok plan`: what a training on many GPUs takes, before it is paid for."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from alitok.apps.plan.options import PlanOptions

_DEFAULTS = PlanOptions()


def plan(*, options: Annotated[PlanOptions, Parameter(name="*")] = _DEFAULTS) -> None:
    """Operations, memory, data, hours and scaling of each stage, on GPUs that need not be at hand.

    FLOPs and memory are those of the real models, traced step by step without computing them. Hours are as good as
    the assumed fraction of the data sheet's rate: measure a few steps before you rely on them.
    """
    from alitok.apps.plan.command import run_plan

    run_plan(options)
