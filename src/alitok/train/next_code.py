"""Next-code prediction measured: loss and top-1 correctness of every code given those before it.

Shapes: N images, T codes per image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from alitok.generator import Generator
from alitok.metrics.codes import code_losses


class CodePredictions(NamedTuple):
    """Per code of each image, on the CPU.

    Attributes:
        nats: (N, T) float64, cross-entropy.
        correct: (N, T) bool, whether the code was the most likely one.
    """

    nats: torch.Tensor
    correct: torch.Tensor

    def bits_per_image(self) -> torch.Tensor:
        """(N,) cost of each image's codes under the generator's probabilities."""
        return self.nats.sum(1) / math.log(2)

    def by_position(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean nats (T,) and top-1 accuracy (T,) by position, float64."""
        return self.nats.mean(0), self.correct.double().mean(0)


@torch.no_grad()
def predict_codes(generator: Generator, codes: torch.Tensor, classes: torch.Tensor, batch_size: int) -> CodePredictions:
    """Predict every code of some images from those before it (teacher forcing).

    Args:
        generator: in evaluation mode, or without dropout.
        codes: (N, T) int64, N at least 1, on any device.
        classes: (N,) int64.
        batch_size: images per forward pass; affects only rounding.
    """
    device = generator.embeddings.weight.device
    found = []
    for some, of in zip(codes.split(batch_size), classes.split(batch_size), strict=True):
        wanted = some.to(device)
        nats, right = code_losses(generator(wanted[:, :-1], of.to(device)), wanted)
        found.append(CodePredictions(nats.cpu().double(), right.cpu()))
    return CodePredictions(torch.cat([each.nats for each in found]), torch.cat([each.correct for each in found]))
