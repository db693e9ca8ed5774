"""`alitok data show`: stored codes back to images, so that a person sees that they are right.

Enters: a store and the tokenizer that made it. Leaves: a PNG with a caption under each image, and a line per image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from alitok.core import images as pixels
from alitok.core.device import DeviceName, choose_device
from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes
from alitok.core.sheets import captioned_sheet
from alitok.data.codes import CodeStore
from alitok.run.stores import decode_rows, tokenizer_of

_COLUMNS = 8
_LEAST_SIDE = 96  # pixels: smaller images are enlarged, or their captions would not fit below them


def run_show(
    store: Path,
    *,
    tokenizer: Path | None = None,
    out: Path | None = None,
    count: int = 32,
    seed: int = 0,
    device: DeviceName = "auto",
) -> None:
    """Write a sheet of decoded images: all crops of an image in a row, or a grid where there is one of each.

    Args:
        store: its directory.
        tokenizer: a saved tokenizer or pair; None takes the one that the store names.
        out: the PNG; None puts it beside the store.
        count: crops to decode, as many images as have them.
        seed: decides which images.
        device: where to decode.

    Raises:
        AlitokError: the store is damaged, the tokenizer is gone or another one.
    """
    if count < 1:
        raise AlitokError(f"--count must be at least 1, not {count}.")
    codes = CodeStore(store)
    model = tokenizer_of(codes, tokenizer).to(choose_device(device))
    chosen = min(codes.images, max(1, count // codes.crops))
    images = np.sort(np.random.default_rng(seed % 2**64).choice(codes.images, chosen, replace=False))
    rows = (images[:, None] * codes.crops + np.arange(codes.crops)).ravel()
    decoded = decode_rows(codes, rows, model)
    captions = [_caption(codes, int(row)) for row in rows]
    place = out or store.resolve().parent / f"{store.resolve().name}.png"
    scale = max(1, -(-_LEAST_SIDE // decoded.shape[-1]))
    columns = codes.crops if codes.crops > 1 else min(_COLUMNS, chosen)
    write_bytes(place, captioned_sheet([pixels.to_pil(image, scale) for image in decoded], captions, columns))
    console = Console()
    for image in images.tolist():
        label = codes.classes[int(codes.image_labels[image])]
        console.print(f"{image:>8}  {label}  {codes.key(image)}", highlight=False, markup=False, soft_wrap=True)
    if codes.crops > 1:
        console.print(f"crops, left to right: {'; '.join(codes.head.crops)}", highlight=False, soft_wrap=True)
    console.print(f"{len(rows)} decoded sequences of {len(codes):,}: {place}", highlight=False, soft_wrap=True)


def _caption(codes: CodeStore, row: int) -> str:
    """The class below the first crop of an image, the crop's name below the others: both would not fit."""
    label = codes.classes[int(codes.image_labels[row // codes.crops])]
    return codes.crop_name(row) if row % codes.crops else label
