"""`alitok models`: the named models in two aligned tables."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from alitok.recipes.models import ModelRow

_TOKENIZER = ("tokenizer", "px", "layers", "width", "heads", "prefix", "buffer", "reads\nprefix", "codes", "parameters")
_GENERATOR = ("generator", "px", "layers", "width", "heads", "codes", "gui-\ndance", "parameters")
_WIDTH = 120  # outside a terminal


def models(*, json_: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the named models: sizes, parameters counted on the models themselves, published and measured gFID.

    Of a tokenizer, the first of two numbers is the encoder's and the second the stage-2 decoder's; guidance is scale
    and power. A generator's name starts with that of its tokenizer.

    Args:
        json_: print one JSON object, name -> numbers.
    """
    from alitok.recipes.models import model_rows

    rows = model_rows()
    if json_:
        sys.stdout.write(json.dumps({row.name: row.to_json() for row in rows}, indent=2) + "\n")
        return
    from rich.console import Console

    from alitok.core.console import print_table

    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    print_table(console, _TOKENIZER, (_tokenizer(row) for row in rows if row.kind == "tokenizer"))
    console.print()
    heads = (*_GENERATOR, "gFID\npub-\nlished", "meas-\nured\nhere")
    print_table(console, heads, (_generator(row) for row in rows if row.kind == "generator"))


def _sizes(row: ModelRow) -> tuple[str, ...]:
    return (row.name, str(row.image_size), *("/".join(map(str, each)) for each in (row.layers, row.width, row.heads)))


def _tokenizer(row: ModelRow) -> tuple[str, ...]:
    reads = "yes" if row.reads_prefix else "no"
    return (*_sizes(row), str(row.prefix), str(row.buffer), reads, str(row.codes), f"{row.parameters:,}")


def _generator(row: ModelRow) -> tuple[str, ...]:
    published, measured = ("" if gfid is None else f"{gfid:.2f}" for gfid in (row.published_gfid, row.measured_gfid))
    guidance = f"{row.guidance_scale:g}/{row.guidance_power:g}"
    return (*_sizes(row), str(row.codes), guidance, f"{row.parameters:,}", published, measured or "not yet")
