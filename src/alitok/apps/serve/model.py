"""The pair that is served, and the short pieces of work on it that are no drawing.

Every image is encoded by itself and decoded in groups of one size, so no answer depends on what else is asked for.
All methods that compute belong into the batcher's thread. Shapes: h image side, T = K + G * G codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from alitok.apps.serve.even import EvenDecoder
from alitok.core import images as pixels
from alitok.core.config import to_dict
from alitok.metrics.reconstruction import psnr
from alitok.sampling import SampleRequest
from alitok.sampling.memory import most_images
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Decoder
from alitok.tokenizer.model import Stage

DIFFERENCE_SCALE = 4  # by which differences are enlarged, so that they can be seen
_BATCH = {"cuda": 64}
_BATCH_ELSEWHERE = 32


@dataclass(frozen=True)
class Reconstructed:
    """What is left of an image after coding.

    Attributes:
        codes: T numbers.
        images: (3, h, h) uint8 by stage.
        decibels: PSNR by stage; None where the image is met exactly.
        difference: (3, h, h) uint8: that of the last stage, times `DIFFERENCE_SCALE`, clipped.
    """

    codes: list[int]
    images: dict[Stage, np.ndarray]
    decibels: dict[Stage, float | None]
    difference: np.ndarray


@dataclass(frozen=True)
class ServedModel:
    """A pair under the name that clients see.

    Attributes:
        name: free of paths.
        pipeline: the pair.
    """

    name: str
    pipeline: Pipeline

    @cached_property
    def decoder(self) -> EvenDecoder:
        """What draws finished images: in fp32 where the codes are drawn in it, so that they are always the same."""
        return EvenDecoder(self.pipeline.tokenizer, "fp32" if self.pipeline.precision == "fp32" else "auto")

    @property
    def stages(self) -> list[Stage]:
        """The decoders there are."""
        tokenizer = self.pipeline.tokenizer
        there: dict[Stage, bool] = {"stage1": tokenizer.stage1 is not None, "stage2": tokenizer.stage2 is not None}
        return [stage for stage, present in there.items() if present]

    @property
    def draws_rows(self) -> bool:
        """Whether rows can be shown before the image is finished."""
        first = self.pipeline.tokenizer.stage1
        return isinstance(first, Decoder) and first.config.causal

    @property
    def classes(self) -> list[str]:
        """Their names, in order; their numbers where they have none."""
        generator = self.pipeline.generator
        return list(generator.class_names) or [str(number) for number in range(generator.config.classes)]

    def describe(self) -> dict[str, Any]:
        """The facts that a client needs, as JSON."""
        config = self.pipeline.tokenizer.config
        return {
            "name": self.name,
            "image_size": config.image_size,
            "classes": self.classes,
            "codes": config.sequence_length,
            "prefix": config.prefix_length,
            "grid": config.grid,
            "codebook_size": config.codebook_size,
            "stages": self.stages,
            "sampling": to_dict(self.pipeline.sampling),
        }

    def largest_batch(self, asked: int | None = None) -> int:
        """Images drawn at a time: those asked for, or 64 on a GPU and 32 elsewhere, as far as memory goes."""
        engine = self.pipeline.engine
        wanted = asked or _BATCH.get(engine.device.type, _BATCH_ELSEWHERE)
        fitting = most_images(engine, self.pipeline.tokenizer, guided=True)
        return wanted if fitting is None else max(1, min(wanted, fitting))

    def warm_up(self, batch_size: int) -> None:
        """Let engine and decoder choose and build what they need, before the first client waits for it."""
        size = 1
        while size < 4 * batch_size:  # kernels are chosen anew when the batch grows by a power of four
            requests = [SampleRequest(0, sampling=self.pipeline.sampling)] * min(size, batch_size)
            self.pipeline.engine.step_seconds(requests, 0)
            size *= 4
        codes = torch.zeros(1, self.pipeline.tokenizer.config.sequence_length, dtype=torch.int64)
        self.decoder(codes.to(self.pipeline.engine.device))

    @torch.inference_mode()
    def encode(self, square: np.ndarray) -> list[int]:
        """(3, h, h) uint8 -> T codes."""
        return self._codes(square)[0].tolist()

    @torch.inference_mode()
    def decode(self, codes: Sequence[int], stage: Stage | None) -> np.ndarray:
        """T codes -> (3, h, h) uint8, by a decoder that is there; None = the last one, as for drawn images."""
        sequence = torch.tensor([codes], dtype=torch.int64, device=self.pipeline.engine.device)
        if stage is None or stage == self.stages[-1]:
            return self.decoder(sequence)[0].cpu().numpy()
        return pixels.to_uint8(self.pipeline.tokenizer.decode(sequence, stage))[0].cpu().numpy()

    @torch.inference_mode()
    def reconstruct(self, square: np.ndarray) -> Reconstructed:
        """(3, h, h) uint8 -> its codes, and what each decoder makes of them."""
        codes = self._codes(square)[0].tolist()
        images = {stage: self.decode(codes, stage) for stage in self.stages}
        original = pixels.to_float(torch.from_numpy(square))[None]
        decibels = {
            stage: _finite(psnr(original, pixels.to_float(torch.from_numpy(image))[None]).item())
            for stage, image in images.items()
        }
        apart = np.abs(square.astype(np.int16) - images[self.stages[-1]])
        difference = (DIFFERENCE_SCALE * apart).clip(0, 255).astype(np.uint8)
        return Reconstructed(codes, images, decibels, difference)

    def _codes(self, square: np.ndarray) -> torch.Tensor:
        images = pixels.to_float(torch.from_numpy(square))[None].to(self.pipeline.engine.device)
        return self.pipeline.tokenizer.encode(images)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
