"""Training of the generator on stored codes; no tokenizer is loaded here.

Enters: a stream of codes (B, T) and classes (B,). Leaves: the trained generator, through `alitok.train.loop.train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config
from alitok.core.errors import AlitokError
from alitok.generator import Generator
from alitok.train.task import Batch, Evaluation, LoopConfig

_BLOCK = 64  # held-out sequences in memory at a time


@config
class GeneratorTraining:
    """How the generator is trained.

    Attributes:
        loop: length, batch and optimizer.
        class_dropout: share of pictures whose class is hidden, so that guidance has an unconditional branch.
    """

    loop: LoopConfig
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1]."""
        if not 0 <= self.class_dropout <= 1:
            raise AlitokError("class_dropout must be within [0, 1]")


class GeneratorTask:
    """Next-code prediction as a task of the loop.

    Args:
        generator: trained in place.
        class_dropout: see `GeneratorTraining`.
        batches: start step -> endless batches of codes (B, T) int64 and classes (B,) int64.
        heldout: codes (N, T) and classes (N,) looked at during training.
        preview: draws a sheet (3, h, w) uint8 with the model as it is; it may use a tokenizer, this room does not.
    """

    name = "generator"

    def __init__(
        self,
        generator: Generator,
        class_dropout: float,
        batches: Callable[[int], Iterator[Batch]],
        heldout: Batch,
        preview: Callable[[Generator], np.ndarray] | None = None,
    ) -> None:
        self.model: nn.Module = generator
        self._generator, self._class_dropout = generator, class_dropout
        self._batches, self._heldout, self._preview = batches, heldout, preview

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Codes and classes from `start_step` on."""
        return self._batches(start_step)

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean cross-entropy per code in nats, and the share of codes guessed right."""
        codes, classes = batch
        hidden = torch.rand(len(classes)).to(classes.device) < self._class_dropout
        return _prediction(self._generator, codes, classes.masked_fill(hidden, self._generator.null_class))

    def after_backward(self) -> None:
        """Nothing besides the optimizer."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Loss, accuracy and bits per picture on held-out codes, and a sheet of samples."""
        assert isinstance(model, Generator)
        device = model.embeddings.weight.device
        sums, (all_codes, all_classes) = {"loss": 0.0, "accuracy": 0.0}, self._heldout
        for codes, classes in zip(all_codes.split(_BLOCK), all_classes.split(_BLOCK), strict=True):
            for name, value in _prediction(model, codes.to(device), classes.to(device)).items():
                sums[name] += value.item() * len(codes) / len(all_codes)
        loss = sums["loss"]
        pictures = {} if self._preview is None else {"samples": self._preview(model)}
        return Evaluation(
            {
                "heldout_loss": loss,
                "heldout_accuracy": sums["accuracy"],
                "heldout_bits_per_image": loss * all_codes.shape[1] / math.log(2),
            },
            pictures,
        )


def _prediction(generator: Generator, codes: torch.Tensor, classes: torch.Tensor) -> dict[str, torch.Tensor]:
    logits = generator(codes[:, :-1], classes)  # (B, T, V)
    return {
        "loss": F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten()),
        "accuracy": (logits.argmax(-1) == codes).float().mean(),
    }
