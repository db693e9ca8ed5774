"""Training of the generator on codes (B, T) and classes (B,); no tokenizer is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config
from alitok.core.errors import AlitokError
from alitok.generator import Generator
from alitok.train.predictability import predict_codes
from alitok.train.schedule import Phase, require_phases
from alitok.train.task import Batch, Evaluation, LoopConfig, LossTerms, StepInfo, Task

_BLOCK = 64  # validation sequences per forward pass


@config
class GeneratorTraining:
    """How the generator is trained.

    Attributes:
        class_dropout: probability of replacing the class by the null class, which guidance needs.
    """

    loop: LoopConfig
    phases: tuple[Phase, ...]
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        require_phases(self.phases)
        if not 0 <= self.class_dropout <= 1:
            raise AlitokError("class_dropout must be within [0, 1]")


class GeneratorTask(Task):
    """Next-code prediction as a task of the loop; `preview` renders a sheet of samples (3, h, w) uint8.

    `batches` maps a batch number to endless batches of codes (B, T) int64 and classes (B,) int64; `val` is validation
    codes (N, T) and classes (N,).
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
        self.modules = {"model": generator}
        self.optimizers = {}
        self.batches = batches
        self._generator, self._class_dropout = generator, training.class_dropout
        self._val, self._preview = val, preview

    def losses(self, models: Mapping[str, nn.Module], batch: Batch, info: StepInfo) -> Iterator[LossTerms]:
        """Mean cross-entropy per code in nats, and top-1 token accuracy."""
        codes, classes = batch
        hidden = torch.rand(len(classes)).to(classes.device) < self._class_dropout
        logits = models["model"](codes[:, :-1], classes.masked_fill(hidden, self._generator.null_class))  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
        yield LossTerms(loss, {"loss": loss, "accuracy": (logits.argmax(-1) == codes).float().mean()})

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Loss, accuracy and bits per image on validation codes, curves by position, and a sheet of samples."""
        nats, correct = predict_codes(self._generator, *self._val, _BLOCK).by_position()
        scalars = {
            "val_loss": nats.mean().item(),
            "val_accuracy": correct.mean().item(),
            "val_bits_per_image": nats.sum().item() / math.log(2),
        }
        curves = {"loss_by_position": nats.tolist(), "accuracy_by_position": correct.tolist()}
        images = {} if self._preview is None else {"samples": self._preview(self._generator)}
        return Evaluation(scalars, curves, images)
