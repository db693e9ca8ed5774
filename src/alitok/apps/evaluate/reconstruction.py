"""`alitok eval reconstruction`: what a tokenizer leaves of images that it never saw, in the numbers of papers.

Enters: a tokenizer and a data set. Leaves: `evaluation.json` and `report.html`, see `alitok.apps.evaluate.job`; with
Inception the features take 60 kB an image.

The reference of rFID is the images themselves, through the crop that the tokenizer reads; it is another one than that
of gFID, and neither is taken for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from alitok import __version__
from alitok.apps.evaluate.fidelity import (
    ORIGINAL,
    Instruments,
    code_usage,
    compare_paired,
    measure,
    nearness,
    rebuild,
)
from alitok.apps.evaluate.job import FeaturesName, Work, begin_job, discard_job, open_extractor, require_evaluation
from alitok.apps.evaluate.originals import Originals, choose
from alitok.apps.evaluate.reconstruction_report import ReconstructionResult, write_reconstruction
from alitok.apps.evaluate.references import Reference, open_reference, target_of
from alitok.core.blocks import Blocks
from alitok.core.checkpoint import fingerprint
from alitok.core.config import to_dict
from alitok.core.console import progress_bar
from alitok.core.device import DeviceName, in_double
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.core.system import stoppable
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.data.survey import short_side
from alitok.losses.perceptual import (
    VGG_MIN_SIZE,
    LpipsVgg,
    NetworkMissingError,
    PerceptualWeights,
    load_network,
    vgg_available,
)
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.reconstruction import SSIM_WINDOW
from alitok.metrics.set_distance import Compared, Seen, Target, compare, gather
from alitok.run.classifier_features import Judge
from alitok.run.originals import SplitName, open_images_of, tell_left_out, verify
from alitok.run.summary import environment
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage

_BLOCK = 256  # images that are measured as a whole
_SAME = 1e-6  # squared distance of two means, as a share of the variance, up to which they are of the same images


@dataclass(frozen=True)
class ReconstructionOptions:
    """What the user asked for; see `alitok eval reconstruction --help`."""

    tokenizer: Path
    data: str
    out: Path
    split: SplitName = "val"
    num: int | None = None
    seed: int = 0
    reference: str | None = None
    features: FeaturesName = "inception"
    inception_weights: Path | None = None
    lpips: PerceptualWeights = field(default_factory=PerceptualWeights)
    batch_size: int = 64
    device: DeviceName = "auto"
    fresh: bool = False
    command: str = ""


class _Job(NamedTuple):
    """What is judged, by what, and on what; the same on every process."""

    options: ReconstructionOptions
    work: Work
    tools: Instruments
    splits: Splits
    left_out: list[Broken]
    originals: Originals


def run_eval_reconstruction(options: ReconstructionOptions) -> dict[str, dict[str, float]]:
    """Judge the tokenizer; every process of a run calls this.

    Returns:
        The numbers by name for each of its decoders, `stage1` and `stage2`, on every process.

    Raises:
        AlitokError: tokenizer, data, reference or weights cannot be used, or do not go together.
    """
    if options.batch_size < 1:
        raise AlitokError(f"--batch-size must be at least 1, not {options.batch_size}.")
    require_evaluation()
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        world.on_rank0(lambda: locate(options.tokenizer, part="tokenizer"))
        tokenizer = Tokenizer.from_pretrained(options.tokenizer).to(world.device)
        _ = tokenizer.stages
        size = tokenizer.config.image_size
        splits, left_out = _usable_images(options, size, world, console)
        originals = choose(splits, options.split, options.num, options.seed)
        extractor = open_extractor(options.features, options.inception_weights, splits, world, console)
        work = Work(extractor, world, console, options.out, options.fresh)
        reference = None
        if options.reference is not None:
            reference = open_reference(options.reference, "reconstruction", work, size, splits.contents)
        lpips, without_lpips = open_lpips(options.lpips, size, world, download=options.features == "inception")
        tools = Instruments(tokenizer, extractor, lpips, size >= SSIM_WINDOW, options.batch_size, world.device)
        job = _Job(options, work, tools, splits, left_out, originals)
        notes = world.on_rank0(lambda: _notes(job, reference, without_lpips))
        settings = world.on_rank0(lambda: _settings(job))
        files = _measured(job, settings)
        return _conclude(job, files, reference, settings, notes)


def _usable_images(
    options: ReconstructionOptions, size: int, world: World, console: Console
) -> tuple[Splits, list[Broken]]:
    """The data without its broken images, and those; of all images where a classifier learns some of them."""
    splits = open_images_of(options.data, size, options.seed, console)
    broken = verify(splits, "all" if options.features == "classifier" else options.split, world, console)
    tell_left_out(broken, console)
    return splits.without({key for key, _ in broken}), broken


def open_lpips(
    weights: PerceptualWeights, size: int, world: World, *, download: bool
) -> tuple[LpipsVgg | None, str | None]:
    """LPIPS on the device of this process, or why it is left out; one process fetches its weights for all.

    Args:
        weights: the files that were named.
        size: pixels a side.
        world: the processes.
        download: whether weights that are neither named nor in the cache are downloaded.

    Raises:
        AlitokError: a file was named, and it cannot be used or images of `size` pixels are too small for LPIPS.
    """
    named = weights.vgg is not None or weights.lpips_heads is not None
    small = f"it needs images of at least {VGG_MIN_SIZE} pixels a side, not {size}"
    if size < VGG_MIN_SIZE:
        if named:
            raise AlitokError(f"There can be no LPIPS: {small}; leave out --lpips-vgg and --lpips-heads.")
        return None, f"There is no LPIPS: {small}."

    def fetch() -> str | None:
        if not download and not vgg_available(weights):
            return (
                "There is no LPIPS: its VGG16 is not in the cache, and nothing is downloaded for --features "
                "classifier; --lpips-vgg names its file."
            )
        try:
            load_network("lpips", weights)
        except NetworkMissingError as error:
            if named:
                raise AlitokError(
                    f"LPIPS's weights cannot be used ({error.reason}); correct --lpips-vgg and --lpips-heads, or leave "
                    "both out."
                ) from None
            return (
                f"There is no LPIPS: its weights cannot be had ({error.reason}); --lpips-vgg and --lpips-heads name "
                "their files."
            )
        return None

    left_out = world.on_rank0(fetch)
    if left_out is not None:
        return None, left_out
    network = load_network("lpips", weights)
    assert isinstance(network, LpipsVgg)
    return network.to(world.device), None


def _notes(job: _Job, reference: Reference | None, without_lpips: str | None) -> tuple[str, ...]:
    """What a reader must know and does not depend on the numbers."""
    data, size, count = job.options.data, job.tools.tokenizer.config.image_size, len(job.originals)
    notes = [] if without_lpips is None else [without_lpips]
    if not job.tools.ssim:
        notes.append(f"There is no SSIM: it needs images of at least {SSIM_WINDOW} pixels a side, not {size}.")
    if data not in BUILTIN and short_side(data) < size:
        notes.append(
            f"Most images of {data} are smaller than {size} pixels and were enlarged, so the numbers are kinder than "
            "those of images of that size."
        )
    if job.options.split != "val":
        notes.append("Some of these images are for training: what was trained on them does better on them.")
    if reference is not None and not _same_images(reference, job.originals):
        notes.append(
            f"The reference is of {reference.about['images']:,} other images than the {count:,} that were "
            "reconstructed (another --seed, --split or --num, or others left out); rFID compares reconstructions with "
            "the very images that they are made from."
        )
    return tuple(notes)


def _same_images(reference: Reference, originals: Originals) -> bool:
    """Whether nothing says that the reference is of others."""
    return reference.about["images"] == len(originals) and reference.about["keys"] in ("", originals.keys)


def _settings(job: _Job) -> dict[str, Any]:
    """All that decides what is measured of each image; the hashes are taken by one process."""
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


def _measured(job: _Job, settings: dict[str, Any]) -> FeatureFiles:
    """The numbers and features of all images, as far as they are not there; all processes call this.

    Raises:
        AlitokError: the directory holds another job, an image cannot be read, or the tokenizer is broken.
    """
    work, world, count = job.work, job.work.world, len(job.originals)

    def begin() -> tuple[int, list[int]]:
        if work.fresh:
            discard_job(work.root)
        decided = {"block": _BLOCK}

        def decide(before: dict[str, Any] | None) -> dict[str, Any]:
            decided.update(before or {})
            return decided

        begin_job(work.root, settings, decide)
        return decided["block"], _files(job, decided["block"]).missing()

    block, missing = world.on_rank0(begin)
    files = _files(job, block)
    total = sum(len(files.blocks[number]) for number in missing[world.rank :: world.size])
    with (
        progress_bar(work.console, f"{count:,} images through the tokenizer", total) as bar,
        closing(job.originals.blocks(files.blocks, missing, world)) as blocks,
    ):
        measure(job.tools, blocks, files, lambda done: bar.advance(done, {}, total))
    world.barrier()
    return files


def _files(job: _Job, block: int) -> FeatureFiles:
    return FeatureFiles(job.work.root / "features", Blocks(len(job.originals), block))


def _conclude(
    job: _Job,
    files: FeatureFiles,
    reference: Reference | None,
    settings: dict[str, Any],
    notes: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    """Bring the blocks together, and write what they say.

    Neither KID nor precision to coverage are taken: they compare sets that have no image in common. A reconstruction
    lies near its own image, so that coverage is always about 1, and KID, unbiased for independent sets, is below 0.
    """
    work, world, originals = job.work, job.work.world, job.originals
    to_judge = np.arange(len(originals.classes)) if isinstance(work.extractor, Judge) else None
    seen = gather(files, world, prefix=ORIGINAL, most_kept=0, to_judge=to_judge)
    target = target_of(seen) if reference is None else reference.target._replace(features=None)
    compared: dict[Stage, Compared] = {}
    for stage in job.tools.tokenizer.stages:
        made = gather(files, world, prefix=f"{stage}/", most_kept=0, to_judge=to_judge)
        compared[stage] = world.on_rank0(partial(_compare, made, seen, target, world.device))
        del made  # hundreds of megabytes
    own = {"data": originals.name, "contents": job.splits.contents, "images": len(originals)}

    def write() -> dict[str, dict[str, float]]:
        result = ReconstructionResult(
            title=str(job.options.tokenizer),
            command=job.options.command,
            originals=originals,
            image_size=job.tools.tokenizer.config.image_size,
            rebuild=partial(rebuild, job.tools),
            compared=compared,
            nearness={stage: nearness(files, stage) for stage in compared},
            usage=code_usage(files, job.tools.tokenizer.config.codebook_size),
            original_accuracy=None if seen.right is None else seen.right / seen.count,
            reference=own if reference is None else reference.about,
            own=reference is None,
            seed=job.options.seed,
            protocol=_protocol(job, settings),
            notes=notes,
        )
        return write_reconstruction(result, work)

    return world.on_rank0(write)


def _compare(made: Seen, seen: Seen, target: Target, device: torch.device) -> Compared:
    """Paired where the target is of the images themselves: without a reference, or with one that is made of them."""
    place = in_double(device)
    own = seen.pool.total().gaussian()
    variance = float(own.covariance.trace())
    if len(target.pool.mean) == len(own.mean) and _apart(own.mean, target.pool.mean) <= _SAME * variance:
        return compare_paired(made, seen, target, device=place)
    return compare(made, target, device=place)


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).square().sum())


def _protocol(job: _Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that the numbers depend on."""
    options, extractor, config = job.options, job.work.extractor, job.tools.tokenizer.config
    facts: dict[str, Any] = {
        "tokenizer": str(options.tokenizer),
        "tokenizer weights": settings["tokenizer"],
        "codes": job.tools.tokenizer.codes_fingerprint(),
        "data": options.data,
        "data contents": job.splits.contents,
        "split": options.split,
        "seed": options.seed,
        "count": len(job.originals),
        "left out": settings["left out"],
        "crop": f"centre, {config.image_size} x {config.image_size}",
        "features": extractor.name,
        "feature weights": extractor.weights,
        "LPIPS weights": settings["LPIPS"],
    }
    if isinstance(extractor, Judge):
        facts["classifier's accuracy on validation images"] = extractor.val_accuracy
    facts |= {"batch size": options.batch_size, "processes": job.work.world.size, "command": options.command}
    return {**facts, **environment(job.work.world.device)}
