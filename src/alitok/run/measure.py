"""The metrics of a finished run, and the images shown beside them in its report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.system import peak_memory
from alitok.data.codes import CodeStore
from alitok.data.loader import order
from alitok.data.sources.decoded import ImageSource, fixed_views
from alitok.data.split import Splits
from alitok.metrics.classifier import ImageClassifier
from alitok.metrics.codes import CodeUsage
from alitok.metrics.nearest import nearest_distance
from alitok.metrics.reconstruction import psnr
from alitok.run.tasks import spread
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage

STAGES: tuple[Stage, Stage] = ("stage1", "stage2")
_MOST_BYTES = 1 << 29  # of a split's images in memory; of a larger split that many are used
_BLOCK = 256  # images decoded at a time
_SHOWN_RECONSTRUCTIONS, _SHOWN_NEIGHBOURS = 12, 20


@dataclass(frozen=True)
class Measured:
    """Metrics by name, and images (N, 3, h, h) uint8."""

    numbers: dict[str, float]
    class_names: tuple[str, ...]
    originals: np.ndarray
    stage1: np.ndarray
    stage2: np.ndarray
    samples: np.ndarray  # all of them
    labels: np.ndarray  # (N,) the requested classes
    shown_samples: np.ndarray  # some of them, evenly spaced
    nearest: np.ndarray  # the training images nearest to `shown_samples`
    nearest_distances: np.ndarray  # (n,)


def measure(
    tokenizer: Tokenizer,
    codes: CodeStore,
    splits: Splits,
    samples: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    device: torch.device,
) -> Measured:
    """Measure reconstructions on validation images, codebook use on training codes, and samples (N, 3, h, h) uint8.

    `tokenizer` has both decoders, on `device`; `labels` (N,) are the requested classes; `seed` picks the random subset
    of a large split.
    """
    train, train_labels = _images(splits.train, seed)
    val, val_labels = _images(splits.val, seed)
    shown = np.array(spread(len(val), _SHOWN_RECONSTRUCTIONS))
    decibels, rebuilt = {}, {}
    for stage in STAGES:
        decibels[stage], rebuilt[stage] = _reconstructions(tokenizer, val, shown, stage, device)
    usage = usage_of(tokenizer, codes)
    accuracies = {}
    if len(np.unique(train_labels)) > 1:
        classifier = ImageClassifier.fit(train, train_labels)
        accuracies["sample_accuracy"] = classifier.accuracy(samples, labels)
        accuracies["classifier_accuracy"] = classifier.accuracy(val, val_labels)
    sample_distances, neighbours = nearest_distance(samples, train)
    val_distances, _ = nearest_distance(val, train)
    numbers = {
        "psnr_stage1": decibels["stage1"],
        "psnr_stage2": decibels["stage2"],
        "codebook_use": usage.use,
        "codebook_perplexity": usage.perplexity,
        **accuracies,
        "nn_distance_samples": float(sample_distances.mean()),
        "nn_distance_val": float(val_distances.mean()),
        "nn_distance_samples_min": float(sample_distances.min()),
        "nn_distance_val_min": float(val_distances.min()),
        "samples": len(samples),
        "peak_memory_gb": peak_memory() / 1e9,
    }
    some = np.array(spread(len(samples), _SHOWN_NEIGHBOURS))
    return Measured(
        numbers,
        splits.train.classes,
        val[shown],
        rebuilt["stage1"],
        rebuilt["stage2"],
        samples,
        labels,
        samples[some],
        train[neighbours[some]],
        sample_distances[some],
    )


def usage_of(tokenizer: Tokenizer, codes: CodeStore) -> CodeUsage:
    """How much of the codebook all codes of a store use."""
    usage = CodeUsage(tokenizer.config.codebook_size)
    for start in range(0, len(codes), _BLOCK):
        usage.update(torch.from_numpy(codes.codes(range(start, min(start + _BLOCK, len(codes)))).astype(np.int64)))
    return usage


def _reconstructions(
    tokenizer: Tokenizer, originals: np.ndarray, shown: np.ndarray, stage: Stage, device: torch.device
) -> tuple[float, np.ndarray]:
    """Mean PSNR in dB over all images, and the reconstructions (n, 3, h, h) uint8 of those shown."""
    decibels, saved = [], []
    starts = range(0, len(originals), _BLOCK)
    blocks = (originals[start : start + _BLOCK] for start in starts)
    for start, rebuilt in zip(starts, reconstruct(tokenizer, blocks, stage, device), strict=True):
        decoded = torch.from_numpy(rebuilt)
        decibels.append(psnr(pixels.to_float(torch.from_numpy(originals[start : start + _BLOCK])), decoded))
        here = shown[(shown >= start) & (shown < start + _BLOCK)] - start
        saved.append(pixels.to_uint8(decoded[here]).numpy())
    return torch.cat(decibels).mean().item(), np.concatenate(saved)


def _images(source: ImageSource, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The fixed views of all images, or of a random subset by `seed` that fits in memory, and their labels."""
    most = _MOST_BYTES // (3 * source.size**2)
    rows = np.sort(order(len(source), seed, 0)[:most])
    return fixed_views(source, rows), source.labels[rows]


def reconstruct(
    tokenizer: Tokenizer, batches: Iterable[np.ndarray], stage: Stage, device: torch.device
) -> Iterator[np.ndarray]:
    """(B, 3, h, h) uint8 images -> (B, 3, h, h) float32 reconstructions in [0, 1] by the decoder of `stage`."""
    for images in batches:
        with torch.inference_mode():
            rebuilt = tokenizer.reconstruct(pixels.to_float(torch.from_numpy(images).to(device)), stage)
        yield rebuilt.cpu().numpy()
