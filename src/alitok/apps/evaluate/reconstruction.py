"""`alitok eval reconstruction`: how close a tokenizer's reconstructions are to images that it was not trained on.

The reference of rFID is the originals, cropped as the tokenizer reads them; it is not the reference of gFID. With
Inception the features take 60 kB an image on disk.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from alitok import __version__
from alitok.apps.evaluate.fidelity import ORIGINAL, Instruments, code_usage, fidelity_of, measure
from alitok.apps.evaluate.images import choose, usable_images
from alitok.apps.evaluate.job import Work, job_dir, open_extractor
from alitok.apps.evaluate.options import ReconstructionOptions
from alitok.apps.evaluate.reconstruction_report import ReconstructionJob, notes_of, write_reconstruction
from alitok.apps.evaluate.reference import Reference, open_reference, target_of
from alitok.core.blocks import Blocks
from alitok.core.checkpoint import fingerprint
from alitok.core.choices import SplitName
from alitok.core.config import to_dict
from alitok.core.console import progress_bar
from alitok.core.device import in_double
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.core.system import require_libraries, stoppable
from alitok.losses.perceptual import (
    VGG_MIN_SIZE,
    LpipsVgg,
    NetworkMissingError,
    PerceptualWeights,
    load_network,
    vgg_available,
)
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.frechet import paired_bias, paired_interval
from alitok.metrics.reconstruction import SSIM_WINDOW
from alitok.metrics.set_distance import Comparison, SetStatistics, Target, compare, enough_for_interval, gather
from alitok.run.classifier import ClassifierFeatures
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage

_BLOCK = 256  # images measured in one block
_SAME_MEAN = 1e-6  # squared distance of two means, as a fraction of the variance, up to which the images are the same


def run_eval_reconstruction(
    tokenizer: Path, options: ReconstructionOptions, command: str = ""
) -> dict[Stage, dict[str, float]]:
    """Metrics of a saved tokenizer or model by decoder, `stage1` and `stage2`; every process calls this, and gets them.

    AlitokError where tokenizer, data, reference or weights cannot be used, or do not go together.
    """
    if options.batch_size < 1:
        raise AlitokError(f"--batch-size must be at least 1, not {options.batch_size}.")
    require_libraries("An evaluation", "eval", "scipy", "jinja2", "matplotlib")  # before hours of work
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        world.on_rank0(lambda: locate(tokenizer, part="tokenizer"))
        model = Tokenizer.from_pretrained(tokenizer).to(world.device)
        _ = model.stages  # raises if there is no decoder
        size = model.config.image_size
        needed: SplitName = "all" if options.features == "classifier" else options.split
        splits, left_out = usable_images(options.data, size, options.seed, needed, world, console)
        originals = choose(splits, options.split, options.num, options.seed)
        extractor = open_extractor(options.features, options.inception_weights, splits, world, console)
        work = Work(extractor, world, console, options.out, options.fresh)
        reference = None
        if options.reference is not None:
            reference = open_reference(options.reference, "reconstruction", work, size, splits.contents)
        weights = PerceptualWeights(vgg=options.lpips_vgg, lpips_heads=options.lpips_heads)
        lpips, without_lpips = open_lpips(weights, size, world, download=options.features == "inception")
        tools = Instruments(model, extractor, lpips, size >= SSIM_WINDOW, options.batch_size, world.device)
        job = ReconstructionJob(tokenizer, options, command, work, tools, splits, left_out, originals)
        notes, settings = world.on_rank0(lambda: (notes_of(job, reference, without_lpips), _settings(job)))
        return _conclude(job, _measured(job, settings), reference, settings, notes)


def open_lpips(
    weights: PerceptualWeights, size: int, world: World, *, download: bool
) -> tuple[LpipsVgg | None, str | None]:
    """LPIPS on this process's device, or why it is skipped; rank 0 may `download` missing weights; `size` in pixels.

    AlitokError where a file was given, and it cannot be used or images are too small for LPIPS.
    """
    given = weights.vgg is not None or weights.lpips_heads is not None
    if size < VGG_MIN_SIZE:
        small = f"it needs images of at least {VGG_MIN_SIZE} px, not {size} px"
        if given:
            raise AlitokError(f"LPIPS cannot be computed: {small}; leave out --lpips-vgg and --lpips-heads.")
        return None, f"LPIPS skipped: {small}."

    def fetch() -> str | None:
        if not download and not vgg_available(weights):
            return (
                "LPIPS skipped: its VGG16 is not cached, and --features classifier downloads nothing; give its file "
                "with --lpips-vgg."
            )
        try:
            load_network("lpips", weights)
        except NetworkMissingError as error:
            if given:
                raise AlitokError(
                    f"LPIPS weights cannot be used ({error.reason}); correct --lpips-vgg and --lpips-heads, or leave "
                    "both out."
                ) from None
            return (
                f"LPIPS skipped: its weights are not available ({error.reason}); give their files with --lpips-vgg and "
                "--lpips-heads."
            )
        return None

    if (skipped := world.on_rank0(fetch)) is not None:
        return None, skipped
    network = load_network("lpips", weights)
    assert isinstance(network, LpipsVgg)
    return network.to(world.device), None


def _settings(job: ReconstructionJob) -> dict[str, Any]:
    """All that decides the metrics of each image; rank 0 computes the hashes."""
    tokenizer, lpips = job.tools.tokenizer, job.tools.lpips
    return {
        "evaluation": "reconstruction",
        "tokenizer": fingerprint(tokenizer.state_dict(), to_dict(tokenizer.config)),
        "data": job.splits.contents,
        "split": job.options.split,
        "seed": job.options.seed,
        "images": len(job.originals),
        "left out": [broken.key for broken in job.left_out],
        "features": job.work.extractor.name,
        "LPIPS": None if lpips is None else fingerprint(lpips.state_dict(), {}),
        "alitok": __version__,
    }


def _measured(job: ReconstructionJob, settings: dict[str, Any]) -> FeatureFiles:
    """Metrics and features of all images; those on disk are not computed again. All processes call this."""
    work, world, count = job.work, job.work.world, len(job.originals)
    stored = job_dir(work.root).begin({**settings, "block": _BLOCK}, world, fresh=work.fresh)
    files = FeatureFiles(work.root / "features", Blocks(count, stored["block"]))
    missing = world.on_rank0(files.missing)
    total = sum(len(files.blocks[number]) for number in missing[world.rank :: world.size])
    with (
        progress_bar(work.console, f"{count:,} images through the tokenizer", total) as bar,
        closing(job.originals.blocks(files.blocks, missing, world)) as blocks,
    ):
        done = 0
        for block in blocks:
            files.write(block.number, {"labels": block.labels, **measure(job.tools, block.images)})
            done += len(block.images)
            bar.advance(done, {}, total)
    world.barrier()
    return files


def _conclude(
    job: ReconstructionJob,
    files: FeatureFiles,
    reference: Reference | None,
    settings: dict[str, Any],
    notes: tuple[str, ...],
) -> dict[Stage, dict[str, float]]:
    """KID, precision, recall, density and coverage are left out: they compare sets without images in common.

    A reconstruction lies near its own original, so coverage is always about 1, and KID, unbiased for independent sets,
    is negative.
    """
    work, world, originals = job.work, job.work.world, job.originals
    network_classes = np.arange(len(originals.classes)) if isinstance(work.extractor, ClassifierFeatures) else None
    found = gather(files, world, prefix=ORIGINAL, max_features=0, network_classes=network_classes)
    target = target_of(found) if reference is None else reference.target._replace(features=None)
    compared: dict[Stage, Comparison] = {}
    for stage in job.tools.tokenizer.stages:
        made = gather(files, world, prefix=f"{stage}/", max_features=0, network_classes=network_classes)
        compared[stage] = world.on_rank0(partial(_compare, made, found, target, world.device))
        del made  # hundreds of megabytes

    def write() -> dict[Stage, dict[str, float]]:
        fidelity = {stage: fidelity_of(files, stage) for stage in compared}
        usage = code_usage(files, job.tools.tokenizer.config.codebook_size)
        shared = {"codebook_use": usage.use, "codebook_perplexity": usage.perplexity, "count": float(len(originals))}
        if found.accuracy is not None:
            shared["original_accuracy"] = found.accuracy
        return write_reconstruction(job, compared, fidelity, shared, reference, settings, notes)

    return world.on_rank0(write)


def _compare(made: SetStatistics, originals: SetStatistics, target: Target, device: torch.device) -> Comparison:
    """Interval and bias are those of paired sets without a reference, or with one computed from the originals."""
    own = originals.pool.total().gaussian()
    same = len(target.pool.mean) == len(own.mean) and bool(
        (own.mean - target.pool.mean).square().sum() <= _SAME_MEAN * own.covariance.trace()
    )
    found = compare(made, target, device=in_double(device), interval=not same)
    if not same or not enough_for_interval(made):
        return found
    bias = paired_bias(made.pool, originals.pool)
    return found._replace(frechet=paired_interval(made.pool, originals.pool), bias=bias)
