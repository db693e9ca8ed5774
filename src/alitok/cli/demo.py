"""`alitok demo`: the whole system on real images, small."""

from __future__ import annotations

from pathlib import Path

from alitok.cli.fit import RunOptions, run

_DEFAULT = RunOptions()


def demo(*, data: str = "digits", out: Path | None = None, options: RunOptions = _DEFAULT) -> None:
    """Train stage 1, stage 2 and the generator, draw samples, measure them, and write a report.

    It is `alitok fit` on images that come with libraries. Run again, it continues where it stopped, or shows the
    numbers when all is done.

    Args:
        data: `digits`, `photos`, or anything that `alitok fit` takes.
        out: where everything is written; runs/demo for digits, runs/demo-NAME for other data unless given.
        options: what all whole runs have.
    """
    from alitok.run.originals import file_name

    name = "demo" if data == "digits" else f"demo-{file_name(data)}"
    run(data, out or Path("runs", name), options)
