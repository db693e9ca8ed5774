"""`alitok models`: the named models in one aligned table."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from cyclopts import Parameter


def models(*, json_: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the named models: sizes, parameters counted on the models themselves, published and measured gFID.

    Args:
        json_: print one JSON object, name -> numbers.
    """
    from alitok.workflow.models import model_rows

    rows = model_rows()
    if json_:
        sys.stdout.write(json.dumps({row.name: row.to_json() for row in rows}, indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    heads = ("px", "layers", "width", "heads", "prefix", "buffer", "reads prefix", "codes", "guidance", "parameters")
    for head in (*heads, "gFID published", "measured here"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        generator = row.kind == "generator"
        measured = "not yet" if row.measured_gfid is None else f"{row.measured_gfid:.2f}"
        table.add_row(
            row.name,
            str(row.image_size),
            " / ".join(map(str, row.layers)),
            " / ".join(map(str, row.width)),
            " / ".join(map(str, row.heads)),
            str(row.prefix),
            "" if row.buffer is None else str(row.buffer),
            {None: "", True: "yes", False: "no"}[row.reads_prefix],
            str(row.codes),
            f"{row.guidance_scale:g} / {row.guidance_power:g}" if generator else "",
            f"{row.parameters:,}",
            f"{row.published_gfid:.2f}" if row.published_gfid is not None else "",
            measured if generator else "",
        )
    Console(width=None if sys.stdout.isatty() else 175).print(table)
