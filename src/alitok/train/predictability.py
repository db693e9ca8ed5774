"""The probe: how predictable are a tokenizer's codes? A small generator is trained on some and asked about others.

Enter: codes (N, T) for training and (M, T) held out, of one tokenizer. Leaves: `Predictability`, of the held-out ones.
No classes enter, so what is measured is what the codes say of one another.
Shapes: B sequences of a batch, T = K + G * G codes, K prefix, G grid side, V codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from alitok.core.config import config, require_at_least
from alitok.core.device import autocast
from alitok.generator import Generator, GeneratorConfig
from alitok.metrics.codes import bits_per_image
from alitok.train.next_code import guess
from alitok.train.optim import GENERATOR_ADAMW, make_optimizer
from alitok.train.schedule import Phase, learning_rate


@config
class PredictabilityConfig:
    """How often and how the probe is trained. Its model is small: the numbers are for comparing tokenizers.

    Attributes:
        every: steps of the tokenizer's training between probes; 0 = never.
        images: training images whose codes the probe learns from.
        val_images: validation images whose codes it is asked about.
        steps: optimizer steps of the probe.
        batch_size: sequences per step.
        layers, width, heads: of its model; width / heads divisible by 4.
        learning_rate: reached after the first tenth of the steps, from where it falls to zero along half a cosine.
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
        """Refuse values outside their ranges."""
        require_at_least(self, 0, "every")
        require_at_least(self, 1, "images", "val_images", "steps", "batch_size")
        self.phase()
        self.generator(grid=1, prefix=0, codebook_size=1)

    def phase(self) -> Phase:
        """The learning rate over the steps."""
        return Phase(
            steps=self.steps,
            learning_rate=self.learning_rate,
            final_learning_rate=0.0,
            warmup_steps=self.steps // 10,
        )

    def generator(self, *, grid: int, prefix: int, codebook_size: int) -> GeneratorConfig:
        """The model for codes of a given shape."""
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
    """What the probe found, after its last step.

    Attributes:
        accuracy: share of the validation codes guessed right.
        bits_per_image: mean cross-entropy of a held-out sequence, in bits.
        grid_bits_per_image: the part of it that the grid codes take.
        train_accuracy: share of the training codes guessed right; far above `accuracy`, the probe learnt them by heart.
        nats: T numbers, the mean cross-entropy of the validation codes at each position.
        right: T numbers, the share of them guessed right at each position.
    """

    accuracy: float
    bits_per_image: float
    grid_bits_per_image: float
    train_accuracy: float
    nats: tuple[float, ...]
    right: tuple[float, ...]


def probe(
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
    """Train a small generator on `codes` and measure it on `val`.

    A function of its arguments, on the CPU bit for bit; global random states and the caller's gradient and inference
    modes neither matter nor change.

    Args:
        codes: (N, T) int64 in [0, V), on any device; all of them are used, whatever `config.images` says.
        val: (M, T) int64 in [0, V).
        grid: G.
        prefix: K.
        codebook_size: V.
        config: model and training.
        device: where to compute, in float32.
        seed: of the weights and the batches.
    """
    assert codes.shape[1:] == val.shape[1:] == (prefix + grid**2,), (codes.shape, val.shape)
    assert min(len(codes), len(val)) > 0
    with torch.inference_mode(False), torch.enable_grad(), autocast(device, "fp32"):
        # Copied, as tensors made in a caller's inference mode cannot be saved for the backward pass.
        codes, val = codes.to(device, copy=True), val.to(device, copy=True)
        shape = config.generator(grid=grid, prefix=prefix, codebook_size=codebook_size)
        model = _new_generator(shape, seed).to(device)
        _train(model, codes, config, seed)
        nats, right = measure(model, val, config.batch_size)
        _, train_right = measure(model, codes, config.batch_size)
    total, of_grid = bits_per_image(nats, prefix)
    means = tuple(nats.tolist()), tuple(right.tolist())
    return Predictability(float(right.mean()), total, of_grid, float(train_right.mean()), *means)


def _new_generator(config: GeneratorConfig, seed: int) -> Generator:
    """Weights drawn on the CPU; only its generator is seeded, and put back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Generator(config)


def _train(model: Generator, codes: torch.Tensor, config: PredictabilityConfig, seed: int) -> None:
    optimizer, phase = make_optimizer(model, GENERATOR_ADAMW), config.phase()
    draws = torch.Generator().manual_seed(seed)
    for step in range(config.steps):
        rows = torch.randint(len(codes), (config.batch_size,), generator=draws)
        batch = codes[rows.to(codes.device)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, phase)
        F.cross_entropy(_logits(model, batch).flatten(0, 1), batch.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), GENERATOR_ADAMW.clip)
        optimizer.step()
        optimizer.zero_grad()


def measure(model: Generator, codes: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`guess` of many sequences of class 0, as means by position.

    Args:
        model: on any device, without dropout.
        codes: (M, T) int64.
        batch_size: sequences in memory at a time; changes nothing about the result.

    Returns:
        Mean nats (T,) and share guessed right (T,), both float64 on the CPU.
    """
    return guess(model, codes, codes.new_zeros(len(codes)), batch_size).by_position()


def _logits(model: Generator, codes: torch.Tensor) -> torch.Tensor:
    """(B, T) -> (B, T, V); all sequences belong to the one class."""
    return model(codes[:, :-1], codes.new_zeros(len(codes)))
