"""`alitok data`: inspects images before training, and stored codes after encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from alitok.apps.data.options import InspectOptions, ShowOptions

app = App(name="data", help="Inspect images before training on them, and stored codes.")


@app.command
def inspect(source: str, /, *, options: Annotated[InspectOptions | None, Parameter(name="*")] = None) -> None:
    """Read every image once and report classes, sizes, kinds, broken files and duplicates.

    Args:
        source: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        options: what to assume and write.
    """
    from alitok.apps.data.inspect import run_inspect

    run_inspect(source, options or InspectOptions())


@app.command
def show(store: Path, /, *, options: Annotated[ShowOptions | None, Parameter(name="*")] = None) -> None:
    """Decode a sample of stored codes back to images, to check them by eye.

    Args:
        store: a directory that `alitok encode` or a training run wrote.
        options: what to decode.
    """
    from alitok.apps.data.show import run_show

    run_show(store, options or ShowOptions())
