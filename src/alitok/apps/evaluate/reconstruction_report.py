"""The report of an evaluation of a tokenizer: metrics of each decoder, reconstructions and their error maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alitok.apps.evaluate.fidelity import Instruments, rebuild
from alitok.apps.evaluate.images import Originals
from alitok.apps.evaluate.job import Work
from alitok.apps.evaluate.options import ReconstructionOptions
from alitok.apps.evaluate.reference import Reference
from alitok.apps.evaluate.report import (
    NOTABLE_BIAS,
    PUBLISHED_COUNT,
    interval,
    metrics_of,
    metrics_table,
    not_fid,
    protocol_of,
    published_section,
    write_evaluation,
)
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.data.survey import short_side
from alitok.metrics.reconstruction import SSIM_WINDOW
from alitok.metrics.set_distance import Comparison
from alitok.recipes.published import Published, applies, reconstruction_table
from alitok.report.images import error_map, error_scale
from alitok.report.model import Images, ImageSheet, Report, Section
from alitok.tokenizer.model import Stage

_CHOSEN, _RANKED = 12, 8  # images shown: chosen by the seed; the worst, and as many of the best
_LABELS: dict[Stage, str] = {"stage1": "stage 1", "stage2": "stage 2"}


class ReconstructionJob(NamedTuple):
    """What is evaluated, with what and on what; the same on every process."""

    name: Path
    options: ReconstructionOptions
    command: str
    work: Work
    tools: Instruments
    splits: Splits
    left_out: list[Broken]
    originals: Originals


def write_reconstruction(
    job: ReconstructionJob,
    compared: Mapping[Stage, Comparison],
    fidelity: Mapping[Stage, Mapping[str, np.ndarray]],
    shared: Mapping[str, float],
    reference: Reference | None,
    settings: Mapping[str, Any],
    notes: tuple[str, ...],
) -> dict[Stage, dict[str, float]]:
    """Write the report, on rank 0 only, and return the metrics by name, by stage; `reference` None = the originals.

    `fidelity` are metrics of each reconstruction, (N,), by stage and name; `shared` do not depend on the decoder,
    `settings` are all that decides the metrics of each image.
    """
    work, originals = job.work, job.originals
    metrics = {
        stage: {
            **metrics_of(found, work.extractor, "reconstruction"),
            **{name: float(values.mean(dtype=np.float64)) for name, values in fidelity[stage].items()},
            **shared,
        }
        for stage, found in compared.items()
    }
    ends = {stage: interval(found) for stage, found in compared.items()}
    table = metrics_table(
        {_LABELS[stage]: found for stage, found in metrics.items()},
        {_LABELS[stage]: found for stage, found in ends.items()},
        work.extractor.distance,
    )
    own = {"data": originals.name, "contents": job.splits.contents, "images": len(originals)}
    psnr = {stage: found["psnr"] for stage, found in fidelity.items()}
    report = Report(
        title=f"alitok: {job.name}",
        summary=f"{len(originals):,} images of {originals.name} and their reconstructions.",
        command=job.command,
        warnings=(*notes, *_warnings(work, len(originals), compared, psnr)),
        sections=(published_section(_published(job, metrics, own=reference is None)), *_shown(job, psnr)),
    )
    results = {
        "kind": "reconstruction",
        "metrics": metrics,
        "interval": ends,
        "bias": {stage: found.bias for stage, found in compared.items()},
        "protocol": _protocol(job, settings),
        "reference": own if reference is None else reference.about,
    }
    write_evaluation(work, report, table, results)
    return metrics


def notes_of(job: ReconstructionJob, reference: Reference | None, without_lpips: str | None) -> tuple[str, ...]:
    """Warnings that do not depend on the metrics."""
    data, size, count = job.options.data, job.tools.tokenizer.config.image_size, len(job.originals)
    notes = [] if without_lpips is None else [without_lpips]
    if not job.tools.ssim:
        notes.append(f"SSIM skipped: it needs images of at least {SSIM_WINDOW} px, not {size} px.")
    if data not in BUILTIN and short_side(data) < size:
        notes.append(
            f"Most images of {data} are smaller than {size} px and were enlarged; metrics are better than on images of "
            "that size."
        )
    if job.options.split != "val":
        notes.append("Some of these images are training images, on which metrics are better.")
    same = reference is None or (
        reference.about["images"] == count and reference.about["keys"] in ("", job.originals.keys)
    )
    if reference is not None and not same:
        notes.append(
            f"The reference is of {reference.about['images']:,} other images than the {count:,} that were "
            "reconstructed (another --seed, --split or --num, or other broken images); rFID compares with the "
            "originals."
        )
    return tuple(notes)


def _warnings(
    work: Work, count: int, compared: Mapping[Stage, Comparison], psnr: Mapping[Stage, np.ndarray]
) -> list[str]:
    warnings = []
    if work.extractor.distance != "FID":
        warnings.append(not_fid(work.extractor))
    elif count != PUBLISHED_COUNT:
        warnings.append(f"Published rFID uses ImageNet's {PUBLISHED_COUNT:,} validation images; this uses {count:,}.")
    if any(found.bias is None for found in compared.values()):
        warnings.append(f"Too few images ({count:,}) to estimate the bias and the interval of the distance.")
    notable = [
        f"{found.bias:.3g} ({_LABELS[stage]})"
        for stage, found in compared.items()
        if found.bias is not None and found.bias > NOTABLE_BIAS * found.frechet.value
    ]
    if notable:
        warnings.append(
            f"With {count:,} images the distance is too large by at least about {' and '.join(notable)} (estimated "
            "from halves of them); compare it only at the same number of images."
        )
    for stage, values in psnr.items():
        exact = int(np.isinf(values).sum())
        if exact:
            warnings.append(
                f"{exact:,} images are reconstructed without any error by {_LABELS[stage]}: their PSNR is infinite, "
                "and so is the mean."
            )
    return warnings


def _published(job: ReconstructionJob, metrics: Mapping[Stage, Mapping[str, float]], *, own: bool) -> Published | None:
    """`own`: the reference is the originals themselves."""
    classes, count, size = len(job.originals.classes), len(job.originals), job.tools.tokenizer.config.image_size
    if not applies(classes=classes, image_size=size, network=job.work.extractor.name):
        return None
    differences = [f"{count:,} images"] if count != PUBLISHED_COUNT else []
    if job.options.split != "val":
        differences.append("images that may have been trained on")
    if not own:
        differences.append("the statistics of a file as the reference")
    measured = {f"this evaluation, {_LABELS[stage]}": found["rfid"] for stage, found in metrics.items()}
    return reconstruction_table(measured, tuple(differences))


def _shown(job: ReconstructionJob, psnr: Mapping[Stage, np.ndarray]) -> list[Section]:
    """Some reconstructions chosen by the seed; the worst and the best by the last decoder's PSNR."""
    last, count = list(psnr)[-1], len(job.originals)
    by_seed = np.sort(np.random.default_rng(job.options.seed % 2**64).permutation(count)[:_CHOSEN])
    ranked = f"{_LABELS[last]} PSNR of {count:,} images"
    chosen = {
        ("Reconstructions", "A random subset."): by_seed,
        ("Worst reconstructions", f"Lowest {ranked}."): np.argsort(psnr[last], kind="stable")[:_RANKED],
        ("Best reconstructions", f"Highest {ranked}."): np.argsort(-psnr[last], kind="stable")[:_RANKED],
    }
    return [
        Section(heading, (Images((error_scale(),)), Images(tuple(_sheets(job, psnr, rows)))), note)
        for (heading, note), rows in chosen.items()
    ]


def _sheets(job: ReconstructionJob, psnr: Mapping[Stage, np.ndarray], rows: np.ndarray) -> list[ImageSheet]:
    originals = job.originals.read(rows.tolist())
    rebuilt = {_LABELS[stage]: images for stage, images in rebuild(job.tools, originals)[1].items()}
    sheets = []
    for number, (row, original) in enumerate(zip(rows.tolist(), originals, strict=True)):
        shown = {"original": original}
        for name, images in rebuilt.items():
            shown |= {name: images[number], f"error, {name}": error_map(original, images[number])}
        key = job.originals.key(row)
        caption = f"{key}: " + ", ".join(f"{values[row]:.1f} dB" for values in psnr.values())
        alt = f"{key}: the original, then its reconstruction and error by {' and '.join(rebuilt)}"
        sheets.append(ImageSheet(np.stack(list(shown.values())), alt, len(shown), caption, tuple(shown)))
    return sheets


def _protocol(job: ReconstructionJob, settings: Mapping[str, Any]) -> dict[str, Any]:
    options, size = job.options, job.tools.tokenizer.config.image_size
    facts = {
        "tokenizer": str(job.name),
        "tokenizer weights": settings["tokenizer"],
        "codes": job.tools.tokenizer.codes_fingerprint(),
        "data": options.data,
        "data contents": job.splits.contents,
        "split": options.split,
        "seed": options.seed,
        "count": len(job.originals),
        "left out": settings["left out"],
        "crop": f"center, {size} x {size}",
        "batch size": options.batch_size,
        "LPIPS weights": settings["LPIPS"],
    }
    return protocol_of(facts, job.work, job.command)
