"""`alitok sample`: many images of a saved pair to files, by one process or by many, as far as they are not there.

Enters: what the user asked for. Leaves: images in class folders or one npz file, see `alitok.apps.sample.files`.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from alitok import __version__
from alitok.apps.sample.files import SampleHead, SamplePlace, class_folders, is_archive, open_files
from alitok.apps.sample.options import SampleFormat, SampleOptions
from alitok.core.console import counted, progress_bar, reporter
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.system import stoppable
from alitok.sampling.job import (
    SamplingJob,
    blocks_of,
    fitting_batch,
    load_pipeline,
    model_hash,
    pixel_precision,
    sample_blocks,
)
from alitok.sampling.pipeline import Pipeline

_OTHER_FILES = (".zip", ".tar", ".gz", ".tgz", ".npy", ".png", ".webp", ".jpg", ".jpeg", ".pt", ".parquet")


def run_sample(model: str, options: SampleOptions) -> None:
    """Draw the images, or those that are missing; every process of a run calls this.

    Raises:
        AlitokError: the model cannot be used, the options do not fit it or one another, or another job's images or
            other files are in the way.
    """
    file_format, place = _format(options), SamplePlace.of(options.out)
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        pipeline = load_pipeline(model, world, options.device, options.precision)
        job = SamplingJob.of(
            pipeline,
            classes=options.classes,
            num=options.num,
            per_class=options.per_class,
            seed=options.seed,
            sampling=options.sampling,
        )
        batch_size = fitting_batch(pipeline, job, world, options.batch_size)

        def begin() -> tuple[SampleHead, list[int]]:
            found = place.find()
            kept = None if options.fresh else found
            asked = _head(pipeline, job, file_format, batch_size, kept)
            if options.fresh:  # only now: nothing is deleted for a job that cannot be begun
                place.discard()
            head = place.begin(asked, kept)
            with open_files(place, head) as files:
                return head, files.missing()

        head, missing = world.on_rank0(begin)
        began = time.monotonic()
        _draw(pipeline, job, world, place, head, missing, min(batch_size, head.block), console)
        drawn = sum(len(head.blocks[number]) for number in missing)
        where = place.archive if file_format == "npz" else place.root
        _tell(console, where, job.count, drawn, time.monotonic() - began)


def _format(options: SampleOptions) -> SampleFormat:
    archive = is_archive(options.out)
    if options.out.suffix.lower() in _OTHER_FILES and not options.out.is_dir():
        raise AlitokError(
            f"--out {options.out} is no kind of file that is written; give a directory, or a file that ends in .npz."
        )
    if archive and options.format not in (None, "npz"):
        raise AlitokError(
            f"--out {options.out} is an npz file, but --format is {options.format}; give a directory, or no --format."
        )
    return options.format or ("npz" if archive else "png")


def _head(
    pipeline: Pipeline, job: SamplingJob, file_format: SampleFormat, batch_size: int, found: SampleHead | None
) -> SampleHead:
    """The job asked for; what the first start decides is taken from it where there was one."""
    folders = class_folders(pipeline.generator.class_names, pipeline.generator.config.classes)
    return SampleHead(
        model=model_hash(pipeline),
        alitok=__version__,
        classes=job.classes,
        count=job.count,
        seed=job.seed,
        sampling=job.sampling,
        precision=pipeline.precision,
        pixels=found.pixels if found else pixel_precision(pipeline, job),
        format=file_format,
        image_size=pipeline.tokenizer.config.image_size,
        folders=tuple(folders[number] for number in job.classes),
        block=found.block if found else blocks_of(job.count, batch_size).size,
    )


def _draw(
    pipeline: Pipeline,
    job: SamplingJob,
    world: World,
    place: SamplePlace,
    head: SampleHead,
    missing: list[int],
    batch_size: int,
    console: Console,
) -> None:
    """Draw and write this process' share of the missing blocks; the first process then finishes the files."""
    share = sum(len(head.blocks[number]) for number in missing[world.rank :: world.size])
    done = 0
    with open_files(place, head) as files, progress_bar(console, "images", share) as bar:
        drawn = sample_blocks(
            pipeline, job, world, batch_size=batch_size, pixels=head.pixels, blocks=head.blocks, wanted=missing
        )
        for block in drawn:
            files.write(block)
            done += len(block.indices)
            bar.advance(done, {}, share)
        files.wait()
        world.barrier()

        def finish() -> None:
            gone = files.missing()
            if gone:
                first = head.blocks[gone[0]].start
                raise AlitokError(
                    f"Image {first} is not in {place.out} after all processes have drawn theirs; they must share "
                    "one disk, and nobody else may delete there. Run the same command again."
                )
            files.finish()

        world.on_rank0(finish)


def _tell(console: Console, where: Path, count: int, drawn: int, seconds: float) -> None:
    if not drawn:
        said = f"All {count:,} images were there before: {where}"
    else:
        there = "" if drawn == count else f" of {count:,}, the others were there before,"
        said = f"{counted(drawn, 'image')}{there} in {seconds:.1f} s, {drawn / seconds:,.1f} images/s: {where}"
    reporter(console)(said)
