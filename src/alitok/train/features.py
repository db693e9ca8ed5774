"""Training of the local feature network on the user's own images, where no pretrained one is available.

It classifies images and, optionally, their rotation by quarter turns, so that one class is enough to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from alitok.core import images as pixels
from alitok.core.checkpoint import Tensors
from alitok.core.config import config
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import LocalFeatures, LocalFeaturesConfig
from alitok.train.schedule import Phase, require_phases
from alitok.train.task import Batch, Evaluation, LoopConfig, LossTerms, StepInfo, Task

_BLOCK = 256  # validation images per forward pass


@config
class FeaturesTraining:
    """Size and training of the local feature network.

    Attributes:
        turns: 4 = classify quarter turns too; 1 = classes only, so that a 6 is never a rotated 9.
    """

    network: LocalFeaturesConfig = LocalFeaturesConfig()
    phases: tuple[Phase, ...] = (Phase(steps=2000, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=100),)
    loop: LoopConfig = LoopConfig(batch_size=128)
    turns: int = 4

    def __post_init__(self) -> None:
        require_phases(self.phases)
        if self.turns not in (1, 4):
            raise AlitokError(f"turns must be 1 (classes only) or 4 (classes and quarter turns), not {self.turns}")


class FeaturesTask(Task):
    """Classification of classes and quarter turns; trains `network`, made with `outputs(classes, training.turns)`.

    `batches` maps a batch number to endless batches of uint8 images (B, 3, h, h) and labels; `val` is validation images
    (N, 3, h, h) uint8 and labels (N,).
    """

    def __init__(
        self,
        network: LocalFeatures,
        training: FeaturesTraining,
        batches: Callable[[int], Iterator[Batch]],
        val: tuple[np.ndarray, np.ndarray],
        name: str = "features",
    ) -> None:
        self.name, self.phases = name, training.phases
        self.modules = {"model": _Logits(network)}
        self.optimizers = {}
        self.batches = batches
        self._turns = training.turns
        self._val = [torch.from_numpy(array) for array in val]

    def losses(self, models: Mapping[str, nn.Module], batch: Batch, info: StepInfo) -> Iterator[LossTerms]:
        """Cross-entropy over classes x turns, each image rotated at random."""
        turns = torch.randint(self._turns, (len(batch[0]),)).tolist()
        logits, answers = _turned(models["model"], batch, turns, self._turns)
        loss = F.cross_entropy(logits.float(), answers)
        yield LossTerms(loss, {"loss": loss, "accuracy": (logits.argmax(1) == answers).float().mean()})

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Accuracy on validation images, with turns cycling from image to image."""
        model = self.modules["model"]
        device = next(model.parameters()).device
        right = 0
        for images, labels in zip(*(array.split(_BLOCK) for array in self._val), strict=True):
            turns = [number % self._turns for number in range(len(images))]
            logits, answers = _turned(model, (images.to(device), labels.to(device)), turns, self._turns)
            right += int((logits.argmax(1) == answers).sum())
        return Evaluation({"val_accuracy": right / len(self._val[0])})


def outputs(classes: int, turns: int) -> int:
    """Number of output classes."""
    return classes * turns


def finished_features(weights: Tensors, like: LocalFeatures) -> LocalFeatures:
    """The trained network, with the weights returned by `train` and the configuration of `like`."""
    network = LocalFeatures(like.config, like.outputs)
    network.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    return network.freeze()


def _turned(model: nn.Module, batch: Batch, turns: list[int], kinds: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch
    turned = torch.stack([image.rot90(turn, (1, 2)) for image, turn in zip(images, turns, strict=True)])
    answers = labels * kinds + torch.tensor(turns, device=labels.device)
    return model(pixels.to_float(turned)), answers


class _Logits(nn.Module):
    """The network's classifier as `forward`, which DDP needs."""

    def __init__(self, network: LocalFeatures) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.logits(images)
