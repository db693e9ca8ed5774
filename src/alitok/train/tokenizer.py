"""Training of the tokenizer: stage 1 shapes encoder, codebook and codes; stage 2 trains a new decoder on frozen codes.

Enters: a stream of uint8 pictures. Leaves: the trained tokenizer, through `alitok.train.loop.train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from alitok.core import images as pixels
from alitok.core.config import config
from alitok.losses.objective import LossWeights, tokenizer_losses
from alitok.metrics.codes import CodeUsage
from alitok.metrics.reconstruction import psnr
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage
from alitok.train.task import Batch, Evaluation, LoopConfig

_BLOCK = 64  # held-out pictures in memory at a time
_SHOWN = 16  # held-out pictures on the sheet of originals and reconstructions


@config
class TokenizerTraining:
    """How one stage is trained."""

    loop: LoopConfig
    losses: LossWeights = LossWeights()


def freeze_codes(tokenizer: Tokenizer) -> None:
    """Train nothing but the stage-2 decoder: encoder, latent tokens, codebook and stage-1 decoder stay as they are."""
    assert tokenizer.stage2 is not None
    tokenizer.requires_grad_(False)
    tokenizer.stage2.requires_grad_(True)


class TokenizerTask:
    """Stage 1 or stage 2 as a task of the loop.

    Args:
        tokenizer: trained in place; for stage 2 it has a stage-2 decoder, and all else is frozen here.
        stage: which decoder is trained.
        losses: weights of the terms.
        batches: start step -> endless batches of uint8 pictures (B, 3, h, h) and labels.
        heldout: (N, 3, h, h) uint8, looked at during training.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stage: Stage,
        losses: LossWeights,
        batches: Callable[[int], Iterator[Batch]],
        heldout: np.ndarray,
    ) -> None:
        self.name: str = stage
        self.model: nn.Module = tokenizer
        self._tokenizer, self._stage, self._weights = tokenizer, stage, losses
        self._batches = batches
        self._heldout = torch.from_numpy(heldout)
        self._features: torch.Tensor | None = None
        if stage == "stage2":
            freeze_codes(tokenizer)

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Pictures and labels from `start_step` on."""
        return self._batches(start_step)

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The named terms for one batch of pictures."""
        images = pixels.to_float(batch[0])
        result = self._tokenizer(images, self._stage)
        if self._stage == "stage2":
            return tokenizer_losses(images, result.images, self._weights, patch_size=self._tokenizer.config.patch_size)
        self._features = result.features
        return tokenizer_losses(
            images,
            result.images,
            self._weights,
            patch_size=self._tokenizer.config.patch_size,
            prefix_strip=result.prefix_strip,
            quantizer_loss=result.quantizer_loss,
        )

    def after_backward(self) -> None:
        """Stage 1: one step of online clustering on the features of this step."""
        if self._features is not None:
            self._tokenizer.quantizer.cluster(self._features)
            self._features = None

    def evaluate(self, model: nn.Module) -> Evaluation:
        """PSNR and codebook use on held-out pictures, and a sheet of originals above their reconstructions."""
        assert isinstance(model, Tokenizer)
        device = next(model.parameters()).device
        usage, decibels = CodeUsage(model.config.codebook_size), []
        for block in self._heldout.split(_BLOCK):
            originals = pixels.to_float(block.to(device))
            codes = model.encode(originals)
            reconstructions = model.decode(codes, self._stage)
            usage.update(codes)
            decibels.append(psnr(originals, reconstructions))
        spread = self._heldout[:: math.ceil(len(self._heldout) / _SHOWN)]  # pictures often come class by class
        originals = pixels.to_float(spread.to(device))
        sheet = torch.cat([originals, model.reconstruct(originals, self._stage)])
        return Evaluation(
            {"heldout_psnr": torch.cat(decibels).mean().item(), "heldout_codebook_use": usage.use},
            {"reconstructions": pixels.grid(pixels.to_uint8(sheet).cpu().numpy(), columns=len(spread))},
        )
