"""How near a tokenizer's reconstructions are to their images: block by block, by all of its decoders at once.

Enters: blocks of images, a tokenizer and the networks that compare. Leaves: numbers of each image and features on
disk; then `Nearness`, the use of the codebook, and what the two paired sets are to one another.
Shapes: N images, B of a block, T codes of each, V codebook, h image side.

Reconstructions are rounded to 8 bits before any number is taken, PSNR, SSIM and LPIPS included: they are judged as
a file would hold them. A block's arrays:

    labels                         (B,)
    code_counts                    (V,): how often each code stands for a patch of its images
    original/, stage1/, stage2/    each with pool, spatial and probabilities, as the feature network gives them
    stage1/, stage2/               each with psnr, ssim and lpips (B,), those that were asked for
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.blocks import ImageBlock
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import LpipsVgg
from alitok.metrics.codes import CodeUsage
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.features import FeatureExtractor, full_precision
from alitok.metrics.frechet import paired_bias, paired_interval
from alitok.metrics.reconstruction import psnr, ssim
from alitok.metrics.set_distance import Compared, Seen, Target, compare, enough_for_interval, features_of
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage

ORIGINAL = "original/"  # before the names of what was seen of the images themselves
_NEAR = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class Instruments:
    """What images are rebuilt and compared with, all on `device` and in evaluation mode.

    Attributes:
        tokenizer: that is judged.
        extractor: the feature network.
        lpips: None leaves LPIPS out.
        ssim: whether it is taken; images must be large enough for it.
        batch_size: images rebuilt at a time, counted from the start of a block. Another number changes the rounding
            of float32, and with it a pixel here and there by 1/255.
        device: of all of these.
    """

    tokenizer: Tokenizer
    extractor: FeatureExtractor
    lpips: LpipsVgg | None
    ssim: bool
    batch_size: int
    device: torch.device


class Rebuilt(NamedTuple):
    """Images after coding.

    Attributes:
        codes: (B, T) int64.
        images: by the stage of the decoder, (B, 3, h, h) uint8.
    """

    codes: np.ndarray
    images: dict[Stage, np.ndarray]


@torch.inference_mode()
def rebuild(tools: Instruments, images: np.ndarray) -> Rebuilt:
    """Encode images (B, 3, h, h) uint8 once, and decode them by each decoder, in float32.

    Raises:
        AlitokError: a pixel is not a finite number.
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
                        f"The {stage} decoder gives pixels that are not finite numbers: the tokenizer is broken; take "
                        "an earlier checkpoint or train it anew."
                    )
                parts.append(pixels.to_uint8(rebuilt).cpu())
        codes.append(found.cpu())
    return Rebuilt(torch.cat(codes).numpy(), {stage: torch.cat(parts).numpy() for stage, parts in made.items()})


def measure(
    tools: Instruments,
    blocks: Iterable[ImageBlock],
    files: FeatureFiles,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Rebuild and measure blocks as they come, and write each when it is done.

    Args:
        tools: on the device of this process.
        blocks: those that `files` misses, or this process' share of them.
        files: where the numbers are kept.
        progress: called with the images done so far.

    Raises:
        AlitokError: what the blocks raise, or the tokenizer is broken.
    """
    done = 0
    for block in blocks:
        files.write(block.number, {"labels": block.labels, **_measured(tools, block.images)})
        done += len(block.images)
        if progress is not None:
            progress(done)


def _measured(tools: Instruments, images: np.ndarray) -> dict[str, np.ndarray]:
    rebuilt = rebuild(tools, images)
    usage = CodeUsage(tools.tokenizer.config.codebook_size)
    usage.update(torch.from_numpy(rebuilt.codes))
    arrays = {"code_counts": usage.counts.numpy()}
    arrays |= _named(ORIGINAL, features_of(tools.extractor, images, tools.device))
    for stage, made in rebuilt.images.items():
        arrays |= _named(f"{stage}/", features_of(tools.extractor, made, tools.device))
        arrays |= _named(f"{stage}/", _near(tools, images, made))
    return arrays


def _named(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: array for name, array in arrays.items()}


@torch.inference_mode()
def _near(tools: Instruments, images: np.ndarray, made: np.ndarray) -> dict[str, np.ndarray]:
    """`psnr`, and `ssim` and `lpips` where they are asked for, each (B,) float32."""
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


@dataclass(frozen=True, eq=False)
class Nearness:
    """How near each reconstruction is to its image, (N,) float32 in the order of the images.

    Attributes:
        psnr: decibels; inf where no pixel differs.
        ssim: None where it was not taken.
        lpips: likewise.
    """

    psnr: np.ndarray
    ssim: np.ndarray | None
    lpips: np.ndarray | None

    def means(self) -> dict[str, float]:
        """The mean over images of each that was taken."""
        there = {name: getattr(self, name) for name in _NEAR}
        return {name: float(value.mean(dtype=np.float64)) for name, value in there.items() if value is not None}


def nearness(files: FeatureFiles, stage: Stage) -> Nearness:
    """The numbers of all images of a job by the decoder of `stage`.

    Raises:
        AlitokError: a block is gone or damaged.
    """
    there = files.read(0, *(f"{stage}/{name}" for name in _NEAR))

    def column(name: str) -> np.ndarray | None:
        return files.column(f"{stage}/{name}") if f"{stage}/{name}" in there else None

    return Nearness(files.column(f"{stage}/psnr"), column("ssim"), column("lpips"))


def code_usage(files: FeatureFiles, codebook_size: int) -> CodeUsage:
    """How often each code stands for a patch of all images of a job.

    Raises:
        AlitokError: a block is gone or damaged.
    """
    usage = CodeUsage(codebook_size)
    for block in files.each("code_counts"):
        usage.counts += torch.from_numpy(block["code_counts"])
    return usage


def compare_paired(made: Seen, originals: Seen, target: Target, *, device: torch.device) -> Compared:
    """All numbers of reconstructions against a target that is of the images they were made from.

    The interval and the bias are those of paired sets; see `alitok.metrics.frechet`.

    Args:
        made: the reconstructions.
        originals: the images, by the same numbers.
        target: statistics of these images.
        device: where distances of many pairs are computed.

    Raises:
        AlitokError: there are fewer than two images.
    """
    found = compare(made, target, device=device, interval=False)
    if not enough_for_interval(made):
        return found
    paired = paired_interval(made.pool, originals.pool)
    return found._replace(frechet=paired, bias=paired_bias(made.pool, originals.pool))
