"""Probe a tokenizer of your own: two methods are all it needs.

The one below cuts an image into patches and keeps the mean colour of each, with three bits for a channel. Every code
is of its own patch alone, so the map of influence is its diagonal, and the future has no share in it.

    python examples/probe_other_tokenizer.py
    cd examples && alitok probe --tokenizer probe_other_tokenizer:MeanColour --data digits    # the whole report
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from alitok.core.errors import AlitokError
from alitok.core.images import to_float
from alitok.data.sources.opening import open_splits
from alitok.metrics.influence import influence_of
from alitok.metrics.reach import reach_of

LEVELS = 8  # of a channel: three bits


class MeanColour:
    """Images of 16 x 16 pixels as 4 x 4 mean colours, and back."""

    image_size = 16  # the three are optional; the command line can be told instead
    grid = 4
    codebook_size = LEVELS**3

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 16, 16) in [0, 1] -> codes (B, 16), row by row."""
        means = F.avg_pool2d(images, self.image_size // self.grid).flatten(2)  # (B, 3, 16)
        red, green, blue = (means * LEVELS).long().clamp(max=LEVELS - 1).unbind(1)
        return (red * LEVELS + green) * LEVELS + blue

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 16) -> images (B, 3, 16, 16) in [0, 1], each patch of one colour."""
        levels = torch.stack([codes // LEVELS**2, codes // LEVELS % LEVELS, codes % LEVELS], dim=1)
        colours = (levels.float() + 0.5) / LEVELS
        return F.interpolate(colours.unflatten(2, (self.grid, self.grid)), scale_factor=4)


def main() -> None:
    """Print how influence and reach are divided."""
    codec = MeanColour()
    source = open_splits("digits", codec.image_size).val
    images = to_float(torch.from_numpy(np.stack([source.read(number, None) for number in range(100)])))
    influence = influence_of(codec, images, grid=codec.grid, prefix=0)
    reach = reach_of(codec, codec.encode(images), image_size=codec.image_size, grid=codec.grid, prefix=0)
    table = Table("", "own patch", "past", "future", box=None)
    for name, shares in (("patches move codes", influence.codes.shares), ("codes move patches", reach.pixels.shares)):
        table.add_row(name, *(f"{share.value:.1%}" for share in shares["all"]))
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # what its reader can mend, in a sentence
        sys.exit(str(error))
