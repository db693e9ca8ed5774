"""`alitok data`: look at images before training on them, and at codes after they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

app = App(name="data", help="Look at images before training on them, and at stored codes.")


@app.command
def inspect(
    source: str,
    /,
    *,
    size: int | None = None,
    sheet: Path | None = None,
    json_: Annotated[Path | None, Parameter(name="--json")] = None,
    seed: int = 0,
) -> None:
    """Read every image once and tell what is there: classes, sizes, kinds, broken files, duplicates.

    Args:
        source: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        size: pixels a side that training would use; chosen from the images unless given.
        sheet: where the contact sheet is written; inspect-NAME.png unless given.
        json_: also write everything found to this JSON file.
        seed: decides which images would be held out.
    """
    from alitok.apps.data.inspect import run_inspect

    run_inspect(source, size=size, sheet=sheet, json_path=json_, seed=seed)


@app.command
def show(
    store: Path,
    /,
    *,
    tokenizer: Path | None = None,
    out: Path | None = None,
    count: int = 32,
    seed: int = 0,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
) -> None:
    """Decode a sample of stored codes back to images, so that a person sees that they are right.

    Args:
        store: a directory that `alitok encode` or a training wrote.
        tokenizer: the one that made the codes; the one named in the store unless given.
        out: the PNG to write; STORE.png unless given.
        count: images on the sheet.
        seed: decides which.
        device: where to decode.
    """
    from alitok.apps.data.show import run_show

    run_show(store, tokenizer=tokenizer, out=out, count=count, seed=seed, device=device)
