"""What an evaluation of a tokenizer leaves: `evaluation.json` for programs and `report.html` for people.

Enters: what was found for each decoder, and what it depends on. Leaves: the two files.
Shapes: N images, h image side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alitok.apps.evaluate.fidelity import Nearness, Rebuilt
from alitok.apps.evaluate.job import NOTABLE, PUBLISHED_COUNT, Work, interval, no_fid, numbers
from alitok.apps.evaluate.originals import Originals
from alitok.apps.evaluate.page import EvaluationReport, Published, RankedReconstructions, write_evaluation
from alitok.apps.evaluate.rows import metric_rows, tell
from alitok.core.files import finite, write_json
from alitok.metrics.codes import CodeUsage
from alitok.metrics.set_distance import Compared
from alitok.recipes.published import applies, reconstruction_table
from alitok.report.facts import protocol_rows
from alitok.tokenizer.model import Stage

_CHOSEN, _RANKED = 12, 8  # images shown: chosen by the seed; the worst, and as many of the best
_LABELS: dict[Stage, str] = {"stage1": "stage 1", "stage2": "stage 2"}


@dataclass(frozen=True, eq=False)
class ReconstructionResult:
    """All that the two files are made of.

    Attributes:
        title: what was judged.
        command: as it was typed.
        originals: the images.
        image_size: pixels a side.
        rebuild: images (B, 3, h, h) uint8 to their reconstructions, for those that are shown.
        compared: the two sets, by the stage of the decoder.
        nearness: each image and its reconstruction, by stage.
        usage: of the codebook.
        original_accuracy: share of the images themselves that a classifier reads as their class; None without one.
        reference: facts of what was compared with.
        own: whether that are the images' own statistics, and not those of a file.
        seed: of the images that are shown.
        protocol: all that the numbers depend on.
        notes: what a reader must know, and was known before.
    """

    title: str
    command: str
    originals: Originals
    image_size: int
    rebuild: Callable[[np.ndarray], Rebuilt]
    compared: Mapping[Stage, Compared]
    nearness: Mapping[Stage, Nearness]
    usage: CodeUsage
    original_accuracy: float | None
    reference: dict[str, Any]
    own: bool
    seed: int
    protocol: dict[str, Any]
    notes: tuple[str, ...]


def write_reconstruction(result: ReconstructionResult, work: Work) -> dict[str, dict[str, float]]:
    """Write both files; one process does it.

    Returns:
        The numbers by name, by stage.
    """
    found = _numbers(result, work)
    warnings = [*result.notes, *_warnings(result, work)]
    labels = {_LABELS[stage]: stage for stage in result.compared}
    chosen, worst, best = _shown(result)
    report = EvaluationReport(
        title=f"alitok: {result.title}",
        summary=f"{len(result.originals):,} images of {result.originals.name} and what is left of them after coding.",
        command=result.command,
        warnings=tuple(warnings),
        columns=tuple(labels),
        metrics=metric_rows(
            {label: found[stage] for label, stage in labels.items()},
            {label: interval(result.compared[stage]) for label, stage in labels.items()},
            work.extractor.distance,
        ),
        published=_published(found, result, work),
        chosen=chosen,
        worst=worst,
        best=best,
        protocol=protocol_rows(result.protocol, result.reference),
    )
    write_evaluation(work.root / "report.html", report)
    write_json(
        work.root / "evaluation.json",
        finite(
            {
                "kind": "reconstruction",
                "features": work.extractor.name,
                "distance": work.extractor.distance,
                "metrics": found,
                "interval": {stage: interval(compared) for stage, compared in result.compared.items()},
                "bias": {stage: compared.bias for stage, compared in result.compared.items()},
                "warnings": warnings,
                "protocol": result.protocol,
                "reference": result.reference,
            }
        ),
    )
    tell(work, report)
    return found


def _numbers(result: ReconstructionResult, work: Work) -> dict[str, dict[str, float]]:
    """By stage and name; what both stages share stands in both."""
    shared = {
        "codebook_use": result.usage.use,
        "codebook_perplexity": result.usage.perplexity,
        "count": float(len(result.originals)),
    }
    if result.original_accuracy is not None:
        shared["original_accuracy"] = result.original_accuracy
    return {
        stage: {**numbers(compared, work.extractor, "reconstruction"), **result.nearness[stage].means(), **shared}
        for stage, compared in result.compared.items()
    }


def _warnings(result: ReconstructionResult, work: Work) -> list[str]:
    """What a reader must know before the numbers."""
    count, said = len(result.originals), []
    if work.extractor.distance != "FID":
        said.append(no_fid(work.extractor))
    elif count != PUBLISHED_COUNT:
        said.append(f"Published rFID is of {PUBLISHED_COUNT:,} validation images of ImageNet; this is of {count:,}.")
    if any(compared.bias is None for compared in result.compared.values()):
        said.append(f"{count:,} images are too few to say how far the distance is from that of many.")
    notable = [
        f"{compared.bias:.3g} ({_LABELS[stage]})"
        for stage, compared in result.compared.items()
        if compared.bias is not None and compared.bias > NOTABLE * compared.frechet.value
    ]
    if notable:
        said.append(
            f"A Frechet distance of few images is too large: with {count:,} images by about "
            f"{' and '.join(notable)} or more (estimated from halves of them). Compare only with numbers of as many "
            "images."
        )
    for stage, near in result.nearness.items():
        exact = int(np.isinf(near.psnr).sum())
        if exact:
            said.append(
                f"{exact:,} of the images come back without any error through {_LABELS[stage]}: their PSNR is "
                "infinite, and so is the mean."
            )
    return said


def _published(found: Mapping[str, Mapping[str, float]], result: ReconstructionResult, work: Work) -> Published | None:
    """The table of the paper, where these images are of its kind."""
    classes, count = len(result.originals.classes), len(result.originals)
    if not applies(classes=classes, image_size=result.image_size, network=work.extractor.name):
        return None
    differences = [f"{count:,} images"] if count != PUBLISHED_COUNT else []
    if result.protocol["split"] != "val":
        differences.append("images that may have been trained on")
    if not result.own:
        differences.append("the statistics of a file as the reference")
    measured = {f"this evaluation, {_LABELS[stage]}": found[stage]["rfid"] for stage in result.compared}
    return reconstruction_table(measured, tuple(differences))


def _shown(
    result: ReconstructionResult,
) -> tuple[RankedReconstructions, RankedReconstructions, RankedReconstructions]:
    """Some reconstructions chosen by the seed; the worst and the best by the last decoder."""
    last = list(result.compared)[-1]
    decibels, count = result.nearness[last].psnr, len(result.originals)
    by_seed = np.sort(np.random.default_rng(result.seed % 2**64).permutation(count)[:_CHOSEN])
    ranked = f"by the PSNR of {_LABELS[last]}, of all {count:,}"
    return (
        _reconstructions(result, by_seed, "Chosen by the seed alone, not by how they look."),
        _reconstructions(result, np.argsort(decibels, kind="stable")[:_RANKED], f"The lowest {ranked}."),
        _reconstructions(result, np.argsort(-decibels, kind="stable")[:_RANKED], f"The highest {ranked}."),
    )


def _reconstructions(result: ReconstructionResult, rows: np.ndarray, note: str) -> RankedReconstructions:
    originals = result.originals.read(rows.tolist())
    captions = tuple(
        f"{result.originals.key(row)}: " + ", ".join(f"{near.psnr[row]:.1f} dB" for near in result.nearness.values())
        for row in rows.tolist()
    )
    rebuilt = {_LABELS[stage]: images for stage, images in result.rebuild(originals).images.items()}
    return RankedReconstructions(originals, rebuilt, captions, note)
