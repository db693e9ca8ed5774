"""`alitok eval reference`: statistics of real images in one file, so that evaluations no longer need the images."""

from __future__ import annotations

from rich.console import Console

from alitok.apps.evaluate.job import Work, discard_tree, open_extractor
from alitok.apps.evaluate.options import EvaluationKind, ReferenceOptions
from alitok.apps.evaluate.originals import usable_images
from alitok.apps.evaluate.references import require_large, source_images, statistics_of
from alitok.core.choices import SplitName
from alitok.core.console import reporter
from alitok.core.distributed import join
from alitok.core.errors import AlitokError
from alitok.core.system import stoppable
from alitok.metrics.reference import Provenance, save_statistics

_KINDS: dict[SplitName, EvaluationKind] = {"train": "generation", "val": "reconstruction"}


def run_eval_reference(data: str, options: ReferenceOptions) -> None:
    """Save the statistics of `data`; every process of a run calls this. An interrupted start is resumed.

    Raises:
        AlitokError: the data or the weights cannot be used, or an option is out of its range.
    """
    if options.out.suffix.lower() != ".npz":
        raise AlitokError(f"--out {options.out} must end in .npz.")
    if options.size < 1:
        raise AlitokError(f"--size must be at least 1, not {options.size}.")
    kind = options.kind or _KINDS.get(options.split)
    if kind is None:
        raise AlitokError("--split all needs --kind: is the reference for generation or reconstruction?")
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        require_large(data, options.size, reporter(console))
        needed: SplitName = "all" if options.features == "classifier" else options.split
        splits, _ = usable_images(data, options.size, options.seed, needed, world, console)
        extractor = open_extractor(options.features, options.inception_weights, splits, world, console)
        beside = options.out.with_suffix(".parts")
        images = source_images(data, splits, options.split)
        found = statistics_of(Work(extractor, world, console, beside, options.fresh), images)

        def write() -> None:
            moments = {"pool": found.pool.total()}
            if found.spatial is not None:
                moments["spatial"] = found.spatial
            about = Provenance(
                kind=kind,
                network=extractor.name,
                resolution=options.size,
                dataset=splits.contents,
                images=images.settings["keys"],
            )
            save_statistics(options.out, moments, about, found.features)
            discard_tree(beside)
            reporter(console)(f"{found.count:,} images, for {kind}: {options.out}")

        world.on_rank0(write)
