"""`alitok demo`: the whole system on real pictures, small."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def demo(
    *,
    data: str = "digits",
    out: Path | None = None,
    fresh: Annotated[bool, Parameter(negative="")] = False,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    seed: int | None = None,
    config: Path | None = None,
    override: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None,
) -> None:
    """Train stage 1, stage 2 and the generator, draw samples, measure them, and write a report.

    It is `alitok fit` on pictures that come with libraries. Run again, it continues where it stopped, or shows the
    numbers when all is done.

    Args:
        data: `digits`, `photos`, or anything that `alitok fit` takes.
        out: where everything is written; runs/demo for digits, runs/demo-NAME for other data unless given.
        fresh: start over, replacing what an earlier run wrote to OUT.
        device: where to compute; auto takes the first of cuda, mps and cpu that is there.
        seed: of everything that is drawn at random; 0 unless given.
        config: a TOML file with recipe keys that replace the preset's.
        override: single recipe keys, such as `--set stage1.loop.batch_size=32`.
    """
    from alitok.workflow.fit import run_fit
    from alitok.workflow.resolve import Request

    request = Request(
        out=out or Path("runs", "demo" if data == "digits" else f"demo-{Path(data).resolve().name}"),
        data=data,
        config=config,
        overrides=tuple(override or ()),
        seed=seed,
        fresh=fresh,
        device=device,
    )
    run_fit(request, command=shlex.join(["alitok", *sys.argv[1:]]))
