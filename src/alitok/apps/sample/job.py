"""`alitok sample`: many images of a saved pipeline to files, on one process or many; a rerun adds what is missing."""

from __future__ import annotations

import time

from rich.console import Console

from alitok import __version__
from alitok.apps.sample.files import SampleHead, SamplePlace, class_folders, open_files, to_head
from alitok.apps.sample.options import SampleFormat, SampleOptions
from alitok.core.config import to_dict
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
    """Generate the missing images; every process of a run calls this.

    Raises:
        AlitokError: the model cannot be used, the options do not fit it or one another, or another job's images or
            other files are in the way.
    """
    file_format, place = _format(options), SamplePlace(options.out)
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

        found = world.on_rank0(place.read)
        # Decided before anything is deleted: --fresh keeps the files of a job that is followed by none.
        head = world.on_rank0(lambda: _head(pipeline, job, file_format, batch_size, None if options.fresh else found))
        files = place.job_dir(found)
        head = to_head(files.begin(to_dict(head), world, fresh=options.fresh), files.path)
        began = time.monotonic()
        missing = _sample(pipeline, job, world, place, head, min(batch_size, head.block), console)
        count = sum(len(head.blocks[number]) for number in missing)
        seconds = time.monotonic() - began
        where = place.archive if file_format == "npz" else place.root
        message = f"All {job.count:,} images exist: {where}"
        if count:
            rest = "" if count == job.count else f" of {job.count:,} (the others existed)"
            message = f"{counted(count, 'image')}{rest} in {seconds:.1f} s, {count / seconds:,.1f} images/s: {where}"
        reporter(console)(message)


def _format(options: SampleOptions) -> SampleFormat:
    archive = SamplePlace(options.out).archived
    if options.out.suffix.lower() in _OTHER_FILES and not options.out.is_dir():
        raise AlitokError(
            f"--out {options.out} is not a supported kind of file; give a directory, or a file that ends in .npz."
        )
    if archive and options.format not in (None, "npz"):
        raise AlitokError(
            f"--out {options.out} is an npz file, but --format is {options.format}; give a directory, or no --format."
        )
    return options.format or ("npz" if archive else "png")


def _head(
    pipeline: Pipeline, job: SamplingJob, file_format: SampleFormat, batch_size: int, found: SampleHead | None
) -> SampleHead:
    """The requested job; an earlier start has decided its blocks and the precision of pixels."""
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


def _sample(
    pipeline: Pipeline,
    job: SamplingJob,
    world: World,
    place: SamplePlace,
    head: SampleHead,
    batch_size: int,
    console: Console,
) -> list[int]:
    """Generate and write this process's missing blocks; rank 0 then finishes the files. Returns all missing blocks."""
    with open_files(place, head) as files:
        missing = world.on_rank0(files.missing)
        total = sum(len(head.blocks[number]) for number in missing[world.rank :: world.size])
        done = 0
        with progress_bar(console, "images", total) as bar:
            for block in sample_blocks(
                pipeline, job, world, batch_size=batch_size, pixels=head.pixels, blocks=head.blocks, wanted=missing
            ):
                files.write(block)
                done += len(block.indices)
                bar.advance(done, {}, total)
            files.wait()
        world.barrier()

        def finish() -> None:
            gone = files.missing()
            if gone:
                raise AlitokError(
                    f"Image {head.blocks[gone[0]].start} is not in {place.out} after all processes are done; they must "
                    "share one disk, and nothing else may delete files there. Rerun the same command."
                )
            files.finish()

        world.on_rank0(finish)
    return missing
