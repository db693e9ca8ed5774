"""`alitok data show`: decodes stored codes to a captioned sheet of images and lists them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from alitok.apps.data.options import ShowOptions
from alitok.core import images as pixels
from alitok.core.console import reporter
from alitok.core.device import choose_device
from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes
from alitok.core.sheets import captioned_sheet
from alitok.data.codes import CodeStore
from alitok.run.stores import decode_rows, tokenizer_of

_COLUMNS = 8
_LEAST_SIDE = 96  # px: smaller images are enlarged, so that their captions fit below them


def run_show(store: Path, options: ShowOptions | None = None) -> None:
    """Write a sheet of decoded images: all crops of an image in a row, or a grid where each has one.

    Raises:
        AlitokError: the store is damaged, or the tokenizer is missing or another one.
    """
    options = options or ShowOptions()
    if options.count < 1:
        raise AlitokError(f"--count must be at least 1, not {options.count}.")
    codes = CodeStore(store)
    model = tokenizer_of(codes, options.tokenizer).to(choose_device(options.device))
    chosen = min(codes.images, max(1, options.count // codes.crops))
    images = np.sort(np.random.default_rng(options.seed % 2**64).choice(codes.images, chosen, replace=False))
    labels = [codes.classes[int(codes.image_labels[image])] for image in images]
    rows = (images[:, None] * codes.crops + np.arange(codes.crops)).ravel()
    decoded = decode_rows(codes, rows, model)
    # the class below the first crop of an image, the crop's name below the others: both would not fit
    captions = [
        codes.crop_name(int(row)) if row % codes.crops else labels[place // codes.crops]
        for place, row in enumerate(rows)
    ]
    out = options.out or store.resolve().parent / f"{store.resolve().name}.png"
    scale = max(1, -(-_LEAST_SIDE // decoded.shape[-1]))
    columns = codes.crops if codes.crops > 1 else min(_COLUMNS, chosen)
    write_bytes(out, captioned_sheet([pixels.to_pil(image, scale) for image in decoded], captions, columns))
    log = reporter(Console())
    for image, label in zip(images.tolist(), labels, strict=True):
        log(f"{image:>8}  {label}  {codes.key(image)}")
    if codes.crops > 1:
        log(f"crops, left to right: {'; '.join(codes.head.crops)}")
    log(f"{len(rows)} decoded sequences of {len(codes):,}: {out}")
