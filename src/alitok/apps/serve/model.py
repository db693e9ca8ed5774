"""Metadata of the served model, and encoding and decoding of single images, in the batcher's thread only.

Shapes: B images, T codes, h image size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.device import Precision
from alitok.metrics.reconstruction import psnr
from alitok.sampling import SampleRequest
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.memory import most_images
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Decoder, Tokenizer
from alitok.tokenizer.model import Stage

DIFFERENCE_SCALE = 4  # amplifies differences so that they are visible


class FixedGroupDecoder(PixelDecoder):
    """Decodes codes in groups of a fixed size, so that an image's pixels do not depend on the other images.

    The shape of a batch determines how the last bits of its sums are rounded, and so occasionally a pixel. The `group`
    depends on tokenizer and device only; the last one is padded.
    """

    def __init__(self, tokenizer: Tokenizer, precision: Precision = "auto") -> None:
        super().__init__(tokenizer, precision)
        self.group = group_size(tokenizer)

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T), B at least 1 -> images (B, 3, h, h) uint8."""
        padded = torch.cat([codes, codes[-1:].expand(-len(codes) % self.group, -1)])
        images = [PixelDecoder.__call__(self, group) for group in padded.split(self.group)]  # no super() in here
        return torch.cat(images)[: len(codes)]


def group_size(tokenizer: Tokenizer) -> int:
    """As many images as take hardly longer than one: on a CPU several only for small decoders, bound by overhead."""
    decoder = tokenizer.decoder()
    if next(decoder.parameters()).device.type != "cpu":
        return 8
    if not isinstance(decoder, Decoder):
        return 1
    operations = 2 * sum(weight.numel() for weight in decoder.parameters()) * tokenizer.config.sequence_length
    return max(1, min(8, int(1e8 / operations)))


@dataclass(frozen=True)
class ServedModel:
    """A pipeline under the name that clients see."""

    name: str
    pipeline: Pipeline

    @cached_property
    def decoder(self) -> FixedGroupDecoder:
        """Decodes generated images; in fp32 if the generator runs in fp32, so that results are reproducible."""
        return FixedGroupDecoder(self.pipeline.tokenizer, "fp32" if self.pipeline.precision == "fp32" else "auto")

    @property
    def streams_rows(self) -> bool:
        """Whether rows can be decoded before the image is complete."""
        stage1 = self.pipeline.tokenizer.stage1
        return isinstance(stage1, Decoder) and stage1.config.causal

    @property
    def classes(self) -> list[str]:
        """Class names in order, or numbers where there are no names."""
        generator = self.pipeline.generator
        return list(generator.class_names) or [str(number) for number in range(generator.config.classes)]

    def describe(self) -> dict[str, Any]:
        """Metadata as JSON."""
        config = self.pipeline.tokenizer.config
        return {
            "name": self.name,
            "image_size": config.image_size,
            "classes": self.classes,
            "codes": config.sequence_length,
            "prefix": config.prefix_length,
            "grid": config.grid,
            "codebook_size": config.codebook_size,
            "stages": self.pipeline.tokenizer.stages,
            "sampling": asdict(self.pipeline.sampling),
        }

    def max_batch_size(self, requested: int | None = None) -> int:
        """The requested images per batch, by default 64 on a GPU and 32 elsewhere, limited by memory."""
        engine = self.pipeline.engine
        wanted = requested or (64 if engine.device.type == "cuda" else 32)
        fitting = most_images(engine, self.pipeline.tokenizer, guided=True)
        return wanted if fitting is None else max(1, min(wanted, fitting))

    def warm_up(self, batch_size: int) -> None:
        """Let the engine choose its kernels and build its buffers before the first request."""
        size = 1
        while size < 4 * batch_size:  # kernels are chosen again when the batch grows by a power of four
            requests = [SampleRequest(0, sampling=self.pipeline.sampling)] * min(size, batch_size)
            self.pipeline.engine.step_seconds(requests, 0)
            size *= 4
        codes = torch.zeros(1, self.pipeline.tokenizer.config.sequence_length, dtype=torch.int64)
        self.decoder(codes.to(self.pipeline.engine.device))

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> list[int]:
        """(3, h, h) uint8 -> T codes."""
        batch = pixels.to_float(torch.from_numpy(image))[None].to(self.pipeline.engine.device)
        return self.pipeline.tokenizer.encode(batch)[0].tolist()

    @torch.inference_mode()
    def decode(self, codes: Sequence[int], stage: Stage | None) -> np.ndarray:
        """T codes -> (3, h, h) uint8, by an existing decoder; None = the last one, as for generated images."""
        sequence = torch.tensor([codes], dtype=torch.int64, device=self.pipeline.engine.device)
        if stage is None or stage == self.pipeline.tokenizer.stages[-1]:
            return self.decoder(sequence)[0].cpu().numpy()
        return pixels.to_uint8(self.pipeline.tokenizer.decode(sequence, stage))[0].cpu().numpy()

    @torch.inference_mode()
    def reconstruct(self, image: np.ndarray) -> tuple[list[int], dict[str, np.ndarray], dict[str, float | None]]:
        """Encode (3, h, h) uint8 and decode it again with each decoder.

        Returns T codes; images (3, h, h) uint8 (the `original`, one by stage, and as `difference` the absolute error of
        the last stage times `DIFFERENCE_SCALE`, clipped); PSNR in dB by stage, None where infinite.
        """
        codes = self.encode(image)
        images: dict[str, np.ndarray] = {stage: self.decode(codes, stage) for stage in self.pipeline.tokenizer.stages}
        original = pixels.to_float(torch.from_numpy(image))[None]
        values: dict[str, float | None] = {}
        for stage, decoded in images.items():
            value = psnr(original, pixels.to_float(torch.from_numpy(decoded))[None]).item()
            values[stage] = value if math.isfinite(value) else None
        error = np.abs(image.astype(np.int16) - images[self.pipeline.tokenizer.stages[-1]])
        difference = (DIFFERENCE_SCALE * error).clip(0, 255).astype(np.uint8)
        return codes, {"original": image, **images, "difference": difference}, values
