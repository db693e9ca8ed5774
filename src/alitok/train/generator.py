"""Training of the generator on stored codes; no tokenizer is loaded here.

Enters: a stream of codes (B, T) and classes (B,). Leaves: the trained generator, through `alitok.train.loop.train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.generator import Generator
from alitok.train.next_code import guess
from alitok.train.optim import OptimizerConfig
from alitok.train.schedule import Phase, require_phases
from alitok.train.task import Batch, Evaluation, LoopConfig, LossTerms, StepInfo

_BLOCK = 64  # held-out sequences in memory at a time


@config
class GeneratorTraining:
    """How the generator is trained.

    Attributes:
        loop: batch, optimizer, what is written when.
        phases: how long, and at which rate.
        class_dropout: share of images whose class is hidden, so that guidance has an unconditional branch.
    """

    loop: LoopConfig
    phases: tuple[Phase, ...]
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a plan without phases and shares outside [0, 1]."""
        require_phases(self.phases)
        if not 0 <= self.class_dropout <= 1:
            raise AlitokError("class_dropout must be within [0, 1]")


class GeneratorTask:
    """Next-code prediction as a task of the loop.

    Args:
        generator: trained in place.
        training: how.
        batches: batch number -> endless batches of codes (B, T) int64 and classes (B,) int64.
        val: codes (N, T) and classes (N,) looked at during training.
        preview: draws a sheet (3, h, w) uint8 with the model as it is; it may use a tokenizer, this room does not.
    """

    name = "generator"

    def __init__(
        self,
        generator: Generator,
        training: GeneratorTraining,
        batches: Callable[[int], Iterator[Batch]],
        val: Batch,
        preview: Callable[[Generator], np.ndarray] | None = None,
    ) -> None:
        self.phases = training.phases
        self.modules: dict[str, nn.Module] = {"model": generator}
        self.optimizers: dict[str, OptimizerConfig] = {}
        self.batches = batches
        self._generator, self._class_dropout = generator, training.class_dropout
        self._val, self._preview = val, preview

    def to(self, device: torch.device) -> None:
        """Move the generator."""
        self._generator.to(device)

    def begin(self) -> None:
        """Nothing is gathered."""

    def losses(self, models: Mapping[str, nn.Module], batch: Batch, moment: StepInfo) -> Iterator[LossTerms]:
        """Mean cross-entropy per code in nats, and the share of codes guessed right."""
        codes, classes = batch
        hidden = torch.rand(len(classes)).to(classes.device) < self._class_dropout
        logits = models["model"](codes[:, :-1], classes.masked_fill(hidden, self._generator.null_class))  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
        yield LossTerms(loss, {"loss": loss, "accuracy": (logits.argmax(-1) == codes).float().mean()})

    def update(self, world: World) -> None:
        """Nothing besides the optimizer."""

    def report(self) -> Evaluation:
        """Nothing besides the terms."""
        return Evaluation()

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Loss, accuracy and bits per image on validation codes, both also by position, and a sheet of samples."""
        nats, right = guess(self._generator, *self._val, _BLOCK).by_position()
        scalars = {
            "val_loss": nats.mean().item(),
            "val_accuracy": right.mean().item(),
            "val_bits_per_image": nats.sum().item() / math.log(2),
        }
        curves = {"loss_by_position": nats.tolist(), "accuracy_by_position": right.tolist()}
        images = {} if self._preview is None else {"samples": self._preview(self._generator)}
        return Evaluation(scalars, curves, images)
