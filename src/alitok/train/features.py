"""The feature network that is learnt from the images themselves, where the pretrained ones cannot be had.

It learns to tell each image's class and by how many quarter turns it was turned, so it has something to learn even
of a single class; or classes alone. Enters: a stream of uint8 images and labels. Leaves: a `LocalFeatures`, through
`alitok.train.loop.train`.
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
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.losses.local_features import LocalFeatures, LocalFeaturesConfig
from alitok.train.optim import OptimizerConfig
from alitok.train.schedule import Phase, require_phases
from alitok.train.task import Batch, Evaluation, LoopConfig, LossTerms, StepInfo

_BLOCK = 256  # validation images in memory at a time


@config
class FeaturesTraining:
    """Size and training of the local feature network.

    Attributes:
        network: its size.
        phases: how long, and at which rate.
        loop: batch, optimizer, what is written when.
        turns: 4 tells quarter turns apart besides the classes; 1 leaves them out, so that a 6 is never a turned 9.
    """

    network: LocalFeaturesConfig = LocalFeaturesConfig()
    phases: tuple[Phase, ...] = (Phase(steps=2000, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=100),)
    loop: LoopConfig = LoopConfig(batch_size=128)
    turns: int = 4

    def __post_init__(self) -> None:
        """Refuse a plan without phases, and turns that would be told apart in part only."""
        require_phases(self.phases)
        if self.turns not in (1, 4):
            raise AlitokError(f"turns must be 1 (classes alone) or 4 (classes and quarter turns), not {self.turns}")


class FeaturesTask:
    """Classes and quarter turns as a task of the loop.

    Args:
        network: trained in place; made with `outputs(classes, training.turns)`.
        training: how.
        batches: batch number -> endless batches of uint8 images (B, 3, h, h) and labels.
        val: images (N, 3, h, h) uint8 and labels (N,) looked at during training.
        name: of the run, for people and for the checkpoint.
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
        self.modules: dict[str, nn.Module] = {"model": _Logits(network)}
        self.optimizers: dict[str, OptimizerConfig] = {}
        self.batches = batches
        self._turns = training.turns
        self._val = [torch.from_numpy(array) for array in val]

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.modules["model"].to(device)

    def begin(self) -> None:
        """Nothing is gathered."""

    def losses(self, models: Mapping[str, nn.Module], batch: Batch, moment: StepInfo) -> Iterator[LossTerms]:
        """Cross-entropy over classes times turns, each image turned at random; over classes alone for one turn."""
        turns = torch.randint(self._turns, (len(batch[0]),)).tolist()
        logits, answers = _turned(models["model"], batch, turns, self._turns)
        loss = F.cross_entropy(logits.float(), answers)
        yield LossTerms(loss, {"loss": loss, "accuracy": (logits.argmax(1) == answers).float().mean()})

    def update(self, world: World) -> None:
        """Nothing besides the optimizer."""

    def report(self) -> Evaluation:
        """Nothing besides the terms."""
        return Evaluation()

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Share of validation images whose class and turn are told; the turns go round from image to image."""
        model = self.modules["model"]
        device = next(model.parameters()).device
        right = 0
        for images, labels in zip(*(array.split(_BLOCK) for array in self._val), strict=True):
            turns = [number % self._turns for number in range(len(images))]
            logits, answers = _turned(model, (images.to(device), labels.to(device)), turns, self._turns)
            right += int((logits.argmax(1) == answers).sum())
        return Evaluation({"val_accuracy": right / len(self._val[0])})


def outputs(classes: int, turns: int) -> int:
    """How many answers the network chooses from."""
    return classes * turns


def finished_features(weights: Tensors, like: LocalFeatures) -> LocalFeatures:
    """The trained network, from the weights that `train` returned; of the configuration of `like`."""
    network = LocalFeatures(like.config, like.outputs)
    network.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    return network.freeze()


def _turned(model: nn.Module, batch: Batch, turns: list[int], kinds: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch
    turned = torch.stack([image.rot90(turn, (1, 2)) for image, turn in zip(images, turns, strict=True)])
    answers = labels * kinds + torch.tensor(turns, device=labels.device)
    return model(pixels.to_float(turned)), answers


class _Logits(nn.Module):
    """Calls the network's classifier as `forward`, which is what DDP watches."""

    def __init__(self, network: LocalFeatures) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.logits(images)
