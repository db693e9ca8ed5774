"""How well a generator guesses codes, each from those before it.

Enter: a generator, codes (N, T) and their classes (N,). Leave: the loss of each code, and whether it was guessed right.
Shapes: N images, T codes of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from alitok.generator import Generator
from alitok.metrics.codes import code_losses


class Guesses(NamedTuple):
    """Of each code of each image, on the CPU.

    Attributes:
        nats: (N, T) float64, cross-entropy.
        right: (N, T) bool, whether the code was held for the likeliest.
    """

    nats: torch.Tensor
    right: torch.Tensor

    def bits_per_image(self) -> torch.Tensor:
        """(N,) what each image's codes cost when they are coded with the generator's probabilities."""
        return self.nats.sum(1) / math.log(2)

    def by_position(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean nats (T,) and the share guessed right (T,), both float64."""
        return self.nats.mean(0), self.right.double().mean(0)


@torch.no_grad()
def guess(generator: Generator, codes: torch.Tensor, classes: torch.Tensor, batch_size: int) -> Guesses:
    """Ask a generator about all codes of some images.

    Args:
        generator: in evaluation mode, or without dropout.
        codes: (N, T) int64, N at least 1, on any device.
        classes: (N,) int64, the class of each image.
        batch_size: images in memory at a time; changes nothing but rounding.
    """
    device = generator.embeddings.weight.device
    found = []
    for some, of in zip(codes.split(batch_size), classes.split(batch_size), strict=True):
        wanted = some.to(device)
        nats, right = code_losses(generator(wanted[:, :-1], of.to(device)), wanted)
        found.append(Guesses(nats.cpu().double(), right.cpu()))
    return Guesses(torch.cat([each.nats for each in found]), torch.cat([each.right for each in found]))
