"""Probe your own tokenizer: two methods are enough.

This one divides an image into patches and stores the mean color of each, with three bits per channel. Every code
depends on its own patch alone, so its influence map is diagonal and the future fraction is 0.

    python examples/probe_other_tokenizer.py
    cd examples && alitok probe --tokenizer probe_other_tokenizer:MeanColor --data digits    # the full report
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

LEVELS = 8  # per channel: three bits


class MeanColor:
    """Images of 16 x 16 pixels as 4 x 4 mean colors, and back."""

    image_size = 16  # optional, as are the next two; also options of the command
    grid = 4
    codebook_size = LEVELS**3

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 16, 16) in [0, 1] -> codes (B, 16), row by row."""
        means = F.avg_pool2d(images, self.image_size // self.grid).flatten(2)  # (B, 3, 16)
        red, green, blue = (means * LEVELS).long().clamp(max=LEVELS - 1).unbind(1)
        return (red * LEVELS + green) * LEVELS + blue

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 16) -> images (B, 3, 16, 16) in [0, 1], one color per patch."""
        levels = torch.stack([codes // LEVELS**2, codes // LEVELS % LEVELS, codes % LEVELS], dim=1)
        colors = (levels.float() + 0.5) / LEVELS
        return F.interpolate(colors.unflatten(2, (self.grid, self.grid)), scale_factor=4)


def main() -> None:
    """Print the fractions of influence and reach."""
    codec = MeanColor()
    source = open_splits("digits", codec.image_size).val
    images = to_float(torch.from_numpy(np.stack([source.read(number, None) for number in range(100)])))
    influence = influence_of(codec, images, grid=codec.grid, prefix=0)
    reach = reach_of(codec, codec.encode(images), image_size=codec.image_size, grid=codec.grid, prefix=0)
    table = Table("", "own patch", "past", "future", box=None)
    for name, measured in (("patches change codes", influence.codes), ("codes change patches", reach.pixels)):
        table.add_row(name, *(f"{fraction.value:.1%}" for fraction in measured.fractions["all"]))
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # an error that the user can fix
        sys.exit(str(error))
