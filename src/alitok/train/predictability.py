"""Next-code prediction: every code given those before it, by any generator or by a small one trained for it.

How predictable a tokenizer's codes are is measured by a small unconditional generator, trained on some of them and
tested on others. Shapes: N images, B batch, T = K + G * G codes, K prefix, G grid side, V codebook.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.device import autocast
from alitok.generator import Generator, GeneratorConfig
from alitok.metrics.codes import bits_per_image, code_losses
from alitok.train.optim import GENERATOR_ADAMW, make_optimizer
from alitok.train.schedule import Phase, learning_rate


class CodePredictions(NamedTuple):
    """Per code (N, T), on the CPU: cross-entropy in float64 nats, and whether it was the most likely one (bool)."""

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
    """Predict codes (N, T) int64, N >= 1, of classes (N,) from those before; `batch_size` affects only rounding."""
    device = generator.embeddings.weight.device
    found = []
    for some, of in zip(codes.split(batch_size), classes.split(batch_size), strict=True):
        wanted = some.to(device)
        nats, right = code_losses(generator(wanted[:, :-1], of.to(device)), wanted)
        found.append(CodePredictions(nats.cpu().double(), right.cpu()))
    return CodePredictions(torch.cat([each.nats for each in found]), torch.cat([each.correct for each in found]))


@config
class PredictabilityConfig:
    """Size and training of the small generator. Its numbers only compare tokenizers.

    Attributes:
        every: steps of the tokenizer's training between measurements; 0 = never.
        images: training images whose codes it is trained on.
        val_images: validation images whose codes it predicts.
        layers, width, heads: model size; width / heads must be divisible by 4.
        learning_rate: peak, after a warm-up of a tenth of the steps; decays to zero along half a cosine.
    """

    every: int = 0
    images: int = 2048
    val_images: int = 256
    steps: int = 300
    batch_size: int = 64
    layers: int = 2
    width: int = 128
    heads: int = 4
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require_at_least(self, 0, "every")
        require_at_least(self, 1, "images", "val_images", "steps", "batch_size")
        self.phase()
        self.generator(grid=1, prefix=0, codebook_size=1)

    def phase(self) -> Phase:
        """The learning-rate schedule."""
        return Phase(
            steps=self.steps,
            learning_rate=self.learning_rate,
            final_learning_rate=0.0,
            warmup_steps=self.steps // 10,
        )

    def generator(self, *, grid: int, prefix: int, codebook_size: int) -> GeneratorConfig:
        """The model's configuration for codes of a given shape."""
        return GeneratorConfig(
            grid=grid,
            prefix=prefix,
            codebook_size=codebook_size,
            classes=1,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            dropout=0.0,
        )


@dataclass(frozen=True)
class Predictability:
    """Results on validation codes; accuracies are top-1, bits the mean cross-entropy of a sequence.

    `grid_bits_per_image` is the part due to the grid codes; `train_accuracy` far above `accuracy`: the model overfits;
    `nats` (mean cross-entropy) and `accuracy_by_position` are T numbers.
    """

    accuracy: float
    bits_per_image: float
    grid_bits_per_image: float
    train_accuracy: float
    nats: tuple[float, ...]
    accuracy_by_position: tuple[float, ...]


def measure_predictability(
    codes: torch.Tensor,
    val: torch.Tensor,
    *,
    grid: int,
    prefix: int,
    codebook_size: int,
    config: PredictabilityConfig,
    device: torch.device,
    seed: int,
) -> Predictability:
    """Train a small generator on codes (N, T) int64 in [0, V) and measure it on `val` (M, T), in float32 on `device`.

    Deterministic given its arguments (bit for bit on the CPU); independent of global random state and of the caller's
    gradient and inference modes. All codes are used, regardless of `config.images`.
    """
    assert codes.shape[1:] == val.shape[1:] == (prefix + grid**2,), (codes.shape, val.shape)
    assert min(len(codes), len(val)) > 0
    with torch.inference_mode(False), torch.enable_grad(), autocast(device, "fp32"):
        # Copied: tensors made in the caller's inference mode cannot be saved for the backward pass.
        codes, val = codes.to(device, copy=True), val.to(device, copy=True)
        shape = config.generator(grid=grid, prefix=prefix, codebook_size=codebook_size)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = Generator(shape).to(device)
        _train(model, codes, config, seed)
        nats, correct = predict_codes(model, val, val.new_zeros(len(val)), config.batch_size).by_position()
        train = predict_codes(model, codes, codes.new_zeros(len(codes)), config.batch_size)
    total, of_grid = bits_per_image(nats, prefix)
    means = tuple(nats.tolist()), tuple(correct.tolist())
    return Predictability(float(correct.mean()), total, of_grid, float(train.by_position()[1].mean()), *means)


def _train(model: Generator, codes: torch.Tensor, config: PredictabilityConfig, seed: int) -> None:
    optimizer, phase = make_optimizer(model, GENERATOR_ADAMW), config.phase()
    draws = torch.Generator().manual_seed(seed)
    for step in range(config.steps):
        rows = torch.randint(len(codes), (config.batch_size,), generator=draws)
        batch = codes[rows.to(codes.device)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, phase)
        logits = model(batch[:, :-1], batch.new_zeros(len(batch)))  # (B, T, V)
        F.cross_entropy(logits.flatten(0, 1), batch.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), GENERATOR_ADAMW.clip)
        optimizer.step()
        optimizer.zero_grad()
