"""How close a tokenizer's reconstructions, rounded to 8 bits as in a file, are to the originals, block by block.

A block has `labels` (B,), `code_counts` (V,), and below `original/` and each `stage*/` the features `pool`, `spatial`
and `probabilities`; below each `stage*/` also `psnr`, and `ssim` and `lpips` if requested, (B,).
N images, B of a block, T codes of each, V codebook size, h image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import LpipsVgg
from alitok.metrics.codes import CodeUsage
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.features import FeatureExtractor, full_precision
from alitok.metrics.reconstruction import psnr, ssim
from alitok.metrics.set_distance import features_of
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage

ORIGINAL = "original/"  # prefix of the arrays of the originals


@dataclass(frozen=True)
class Instruments:
    """The networks of an evaluation, on `device`, in evaluation mode; `lpips` None skips LPIPS.

    Attributes:
        ssim: whether to compute it; images must be large enough.
        batch_size: within a block; another value changes float32 rounding, and with it a few pixels by 1/255.
    """

    tokenizer: Tokenizer
    extractor: FeatureExtractor
    lpips: LpipsVgg | None
    ssim: bool
    batch_size: int
    device: torch.device


@torch.inference_mode()
def rebuild(tools: Instruments, images: np.ndarray) -> tuple[np.ndarray, dict[Stage, np.ndarray]]:
    """Images (B, 3, h, h) uint8 -> codes (B, T) int64, and reconstructions (B, 3, h, h) uint8 by stage, in float32.

    AlitokError where a pixel is not finite.
    """
    codes: list[torch.Tensor] = []
    made: dict[Stage, list[torch.Tensor]] = {stage: [] for stage in tools.tokenizer.stages}
    for some in torch.from_numpy(images).split(tools.batch_size):
        with full_precision(tools.device):
            found = tools.tokenizer.encode(pixels.to_float(some.to(tools.device)))
            for stage, parts in made.items():
                rebuilt = tools.tokenizer.decode(found, stage)
                if not rebuilt.isfinite().all():
                    raise AlitokError(
                        f"Pixels of the {stage} decoder are not finite: the tokenizer is broken; use an earlier "
                        "checkpoint or train again."
                    )
                parts.append(pixels.to_uint8(rebuilt).cpu())
        codes.append(found.cpu())
    return torch.cat(codes).numpy(), {stage: torch.cat(parts).numpy() for stage, parts in made.items()}


def measure(tools: Instruments, images: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a block, but its labels, of images (B, 3, h, h) uint8; AlitokError where a pixel is not finite."""
    codes, rebuilt = rebuild(tools, images)
    usage = CodeUsage(tools.tokenizer.config.codebook_size)
    usage.update(torch.from_numpy(codes))
    arrays = {"code_counts": usage.counts.numpy()}
    arrays |= {ORIGINAL + name: each for name, each in features_of(tools.extractor, images, tools.device).items()}
    for stage, made in rebuilt.items():
        found = {**features_of(tools.extractor, made, tools.device), **_metrics(tools, images, made)}
        arrays |= {f"{stage}/{name}": array for name, array in found.items()}
    return arrays


@torch.inference_mode()
def _metrics(tools: Instruments, images: np.ndarray, made: np.ndarray) -> dict[str, np.ndarray]:
    """`psnr`, and `ssim` and `lpips` if requested, each (B,) float32."""
    parts: dict[str, list[np.ndarray]] = {}
    both = (torch.from_numpy(part).split(tools.batch_size) for part in (images, made))
    for pair in zip(*both, strict=True):
        wanted, found = (pixels.to_float(some.to(tools.device)) for some in pair)
        numbers = {"psnr": psnr(wanted, found)}
        if tools.ssim:
            numbers["ssim"] = ssim(wanted, found)
        if tools.lpips is not None:
            with full_precision(tools.device):
                numbers["lpips"] = tools.lpips.distances(tools.lpips(found), tools.lpips(wanted))
        for name, value in numbers.items():
            parts.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def fidelity_of(files: FeatureFiles, stage: Stage) -> dict[str, np.ndarray]:
    """`psnr`, and `ssim` and `lpips` if computed, of all images in order, (N,) float32, by the decoder of `stage`.

    PSNR is in dB, and infinite where no pixel differs. AlitokError where a block is missing or damaged.
    """
    names = [name for name in ("psnr", "ssim", "lpips") if files.read(0, f"{stage}/{name}")]
    return {name: files.column(f"{stage}/{name}") for name in names}


def code_usage(files: FeatureFiles, codebook_size: int) -> CodeUsage:
    """How often each code occurs in all images of a job."""
    usage = CodeUsage(codebook_size)
    for block in files.each("code_counts"):
        usage.counts += torch.from_numpy(block["code_counts"])
    return usage
