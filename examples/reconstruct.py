"""Images to codes and back: fidelity, size, and the output of each decoder for the same codes.

    python examples/reconstruct.py runs/demo/model/tokenizer --data digits --out rebuilt.png    # seconds

The sheet has the images in its first row and the reconstructions of each decoder below.
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
    """Encode and decode validation images, and save both on a sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="a directory, or owner/name on the hub")
    parser.add_argument("--data", default="digits", help="a folder, or any other source of images")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("rebuilt.png"))
    options = parser.parse_args()

    tokenizer = alitok.Tokenizer.from_pretrained(options.tokenizer)
    size, entries = tokenizer.config.image_size, tokenizer.config.codebook_size
    source = open_splits(options.data, size).val  # not seen in training
    pixels = np.stack([source.read(number, None) for number in range(min(options.count, len(source)))])
    images = to_float(torch.from_numpy(pixels))  # (B, 3, h, h) in [0, 1]

    with torch.inference_mode():
        codes = tokenizer.encode(images)  # (B, T) integers below the codebook size
        rows = [images]
        for stage in ("stage1", "stage2"):
            if getattr(tokenizer, stage) is not None:
                rows.append(tokenizer.decode(codes, stage))
                print(f"{stage}: {psnr(images, rows[-1]).mean():.2f} dB")
        best = tokenizer.reconstruct(images)  # both steps, with the last decoder
    assert torch.equal(best, rows[-1])
    bits = codes.shape[1] * math.log2(entries)
    print(f"{codes.shape[1]} codes per image, {bits:.0f} bits; its pixels take {images[0].numel() * 8}")
    print(f"{len(codes.unique())} of {entries} codes in use; the first image is {codes[0, :8].tolist()} ...")
    to_pil(grid(to_uint8(torch.cat(rows)).numpy(), columns=len(images))).save(options.out)


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # an error that the user can fix
        sys.exit(str(error))
