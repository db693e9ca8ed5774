"""The report of an evaluation of a tokenizer: metrics of each decoder, reconstructions and their error maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.apps.evaluate.fidelity import Fidelity, Rebuilt
from alitok.apps.evaluate.job import Work
from alitok.apps.evaluate.originals import Originals
from alitok.apps.evaluate.report import (
    NOTABLE_BIAS,
    PUBLISHED_COUNT,
    interval,
    metrics_of,
    metrics_table,
    not_fid,
    protocol_section,
    published_section,
    write_evaluation,
)
from alitok.metrics.codes import CodeUsage
from alitok.metrics.set_distance import Comparison
from alitok.recipes.published import Published, applies, reconstruction_table
from alitok.report.images import error_map, error_scale
from alitok.report.model import Images, ImageSheet, Report, Section
from alitok.tokenizer.model import Stage

_CHOSEN, _RANKED = 12, 8  # images shown: chosen by the seed; the worst, and as many of the best
_LABELS: dict[Stage, str] = {"stage1": "stage 1", "stage2": "stage 2"}


@dataclass(frozen=True, eq=False)
class ReconstructionResult:
    """What an evaluation of a tokenizer found.

    Attributes:
        title: names the tokenizer.
        command: as it was typed.
        originals: the images.
        image_size: in pixels.
        rebuild: images (B, 3, h, h) uint8 to their reconstructions, for those shown.
        compared: originals and reconstructions, by the decoder's stage.
        fidelity: each image and its reconstruction, by stage.
        usage: of the codebook.
        original_accuracy: of a classifier on the originals; None without one.
        reference: facts about the reference.
        own: whether the reference is the originals' own statistics, not those of a file.
        seed: of the images shown.
        protocol: all that the metrics depend on.
        notes: warnings known before.
    """

    title: str
    command: str
    originals: Originals
    image_size: int
    rebuild: Callable[[np.ndarray], Rebuilt]
    compared: Mapping[Stage, Comparison]
    fidelity: Mapping[Stage, Fidelity]
    usage: CodeUsage
    original_accuracy: float | None
    reference: dict[str, Any]
    own: bool
    seed: int
    protocol: dict[str, Any]
    notes: tuple[str, ...]


def write_reconstruction(result: ReconstructionResult, work: Work) -> dict[Stage, dict[str, float]]:
    """Write the report; on rank 0 only.

    Returns:
        The metrics by name, by stage.
    """
    metrics = _metrics(result, work)
    ends = {stage: interval(compared) for stage, compared in result.compared.items()}
    table = metrics_table(
        {_LABELS[stage]: found for stage, found in metrics.items()},
        {_LABELS[stage]: found for stage, found in ends.items()},
        work.extractor.distance,
    )
    report = Report(
        title=f"alitok: {result.title}",
        summary=f"{len(result.originals):,} images of {result.originals.name} and their reconstructions.",
        command=result.command,
        warnings=(*result.notes, *_warnings(result, work)),
        sections=(
            Section("Metrics", (table,)),
            published_section(_published(metrics, result, work)),
            *_shown(result),
            protocol_section(result.protocol, result.reference),
        ),
    )
    results = {
        "kind": "reconstruction",
        "metrics": metrics,
        "interval": ends,
        "bias": {stage: compared.bias for stage, compared in result.compared.items()},
        "protocol": result.protocol,
        "reference": result.reference,
    }
    write_evaluation(work, report, table, results)
    return metrics


def _metrics(result: ReconstructionResult, work: Work) -> dict[Stage, dict[str, float]]:
    """By stage and name; those of the codes and of the originals are repeated for each stage."""
    shared = {
        "codebook_use": result.usage.use,
        "codebook_perplexity": result.usage.perplexity,
        "count": float(len(result.originals)),
    }
    if result.original_accuracy is not None:
        shared["original_accuracy"] = result.original_accuracy
    return {
        stage: {**metrics_of(compared, work.extractor, "reconstruction"), **result.fidelity[stage].means(), **shared}
        for stage, compared in result.compared.items()
    }


def _warnings(result: ReconstructionResult, work: Work) -> list[str]:
    count, found = len(result.originals), []
    if work.extractor.distance != "FID":
        found.append(not_fid(work.extractor))
    elif count != PUBLISHED_COUNT:
        found.append(f"Published rFID uses ImageNet's {PUBLISHED_COUNT:,} validation images; this uses {count:,}.")
    if any(compared.bias is None for compared in result.compared.values()):
        found.append(f"Too few images ({count:,}) to estimate the bias and the interval of the distance.")
    notable = [
        f"{compared.bias:.3g} ({_LABELS[stage]})"
        for stage, compared in result.compared.items()
        if compared.bias is not None and compared.bias > NOTABLE_BIAS * compared.frechet.value
    ]
    if notable:
        found.append(
            f"With {count:,} images the distance is too large by at least about {' and '.join(notable)} (estimated "
            "from halves of them); compare it only at the same number of images."
        )
    for stage, fidelity in result.fidelity.items():
        exact = int(np.isinf(fidelity.psnr).sum())
        if exact:
            found.append(
                f"{exact:,} images are reconstructed without any error by {_LABELS[stage]}: their PSNR is infinite, "
                "and so is the mean."
            )
    return found


def _published(
    metrics: Mapping[Stage, Mapping[str, float]], result: ReconstructionResult, work: Work
) -> Published | None:
    """The paper's table, if these images are of its kind."""
    classes, count = len(result.originals.classes), len(result.originals)
    if not applies(classes=classes, image_size=result.image_size, network=work.extractor.name):
        return None
    differences = [f"{count:,} images"] if count != PUBLISHED_COUNT else []
    if result.protocol["split"] != "val":
        differences.append("images that may have been trained on")
    if not result.own:
        differences.append("the statistics of a file as the reference")
    measured = {f"this evaluation, {_LABELS[stage]}": metrics[stage]["rfid"] for stage in result.compared}
    return reconstruction_table(measured, tuple(differences))


def _shown(result: ReconstructionResult) -> list[Section]:
    """Some reconstructions chosen by the seed; the worst and the best by the last decoder's PSNR."""
    last = list(result.compared)[-1]
    psnr, count = result.fidelity[last].psnr, len(result.originals)
    by_seed = np.sort(np.random.default_rng(result.seed % 2**64).permutation(count)[:_CHOSEN])
    ranked = f"{_LABELS[last]} PSNR of {count:,} images"
    chosen = {
        ("Reconstructions", "A random subset."): by_seed,
        ("Worst reconstructions", f"Lowest {ranked}."): np.argsort(psnr, kind="stable")[:_RANKED],
        ("Best reconstructions", f"Highest {ranked}."): np.argsort(-psnr, kind="stable")[:_RANKED],
    }
    return [
        Section(heading, (Images((error_scale(),)), Images(tuple(_sheets(result, rows)))), note)
        for (heading, note), rows in chosen.items()
    ]


def _sheets(result: ReconstructionResult, rows: np.ndarray) -> list[ImageSheet]:
    """For each image one row: the original, then each decoder's reconstruction and its error."""
    originals = result.originals.read(rows.tolist())
    rebuilt = {_LABELS[stage]: images for stage, images in result.rebuild(originals).images.items()}
    sheets = []
    for number, (row, original) in enumerate(zip(rows.tolist(), originals, strict=True)):
        shown = {"original": original}
        for name, images in rebuilt.items():
            shown |= {name: images[number], f"error, {name}": error_map(original, images[number])}
        key = result.originals.key(row)
        psnr = ", ".join(f"{fidelity.psnr[row]:.1f} dB" for fidelity in result.fidelity.values())
        alt = f"{key}: the original, then its reconstruction and error by {' and '.join(rebuilt)}"
        images = np.stack(list(shown.values()))
        sheets.append(ImageSheet(images, alt, len(shown), caption=f"{key}: {psnr}", labels=tuple(shown)))
    return sheets
