"""Images to codes and back: what is kept, what it costs, and what each decoder makes of the same codes.

    python examples/reconstruct.py runs/demo/model/tokenizer --data digits --out rebuilt.png    # seconds

The sheet has the images in its first row, and below them what each decoder draws from their codes.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch

import alitok
from alitok.core.errors import AlitokError
from alitok.core.images import grid, to_float, to_pil, to_uint8
from alitok.data.sources.opening import open_splits
from alitok.metrics.reconstruction import psnr


def main() -> None:
    """Encode validation images, decode them, and draw both beside one another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="a directory, or owner/name on the hub")
    parser.add_argument("--data", default="digits", help="a folder, or any other source of images")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("rebuilt.png"))
    options = parser.parse_args()

    tokenizer = alitok.Tokenizer.from_pretrained(options.tokenizer)
    size, entries = tokenizer.config.image_size, tokenizer.config.codebook_size
    source = open_splits(options.data, size).val  # images that a training with this data has not seen
    pixels = np.stack([source.read(number, None) for number in range(min(options.count, len(source)))])
    images = to_float(torch.from_numpy(pixels))  # (B, 3, h, h) in [0, 1]

    with torch.inference_mode():
        codes = tokenizer.encode(images)  # (B, T) whole numbers below the size of the codebook
        rows = [images]
        for stage in ("stage1", "stage2"):
            if getattr(tokenizer, stage) is not None:
                rows.append(tokenizer.decode(codes, stage))
                print(f"{stage}: {psnr(images, rows[-1]).mean():.2f} dB")
        best = tokenizer.reconstruct(images)  # both steps at once, by the last decoder
    assert torch.equal(best, rows[-1])
    bits = codes.shape[1] * math.log2(entries)
    print(f"{codes.shape[1]} codes an image, {bits:.0f} bits, where its pixels take {images[0].numel() * 8}")
    print(f"{len(codes.unique())} of {entries} codes were used; the first image is {codes[0, :8].tolist()} ...")
    to_pil(grid(to_uint8(torch.cat(rows)).numpy(), columns=len(images))).save(options.out)


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # what its reader can mend, in a sentence
        sys.exit(str(error))
