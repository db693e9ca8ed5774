"""`alitok eval reference`: statistics of real images in one file, so that evaluations need the images no more.

Enters: a source of images. Leaves: an npz file that knows what it is of and what it may be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from alitok.apps.evaluate.job import FeaturesName, Work, discard_tree, open_extractor
from alitok.apps.evaluate.references import require_large, seen_of, source_images
from alitok.core.console import reporter
from alitok.core.device import DeviceName
from alitok.core.distributed import join
from alitok.core.errors import AlitokError
from alitok.core.system import stoppable
from alitok.metrics.reference import Kind, Provenance, save_statistics
from alitok.run.originals import SplitName, open_images_of, tell_left_out, verify

_KINDS: dict[SplitName, Kind] = {"train": "generation", "val": "reconstruction"}


@dataclass(frozen=True)
class ReferenceOptions:
    """What the user asked for; see `alitok eval reference --help`."""

    data: str
    out: Path
    size: int
    split: SplitName = "train"
    kind: Kind | None = None
    features: FeaturesName = "inception"
    inception_weights: Path | None = None
    seed: int = 0
    device: DeviceName = "auto"
    fresh: bool = False


def run_eval_reference(options: ReferenceOptions) -> None:
    """Write the file; every process of a run calls this. What a killed start has done beside it is used again.

    Raises:
        AlitokError: the data or the weights cannot be used, or an option is out of its range.
    """
    if options.out.suffix.lower() != ".npz":
        raise AlitokError(f"--out {options.out} must end in .npz.")
    if options.size < 1:
        raise AlitokError(f"--size must be at least 1, not {options.size}.")
    kind = options.kind or _KINDS.get(options.split)
    if kind is None:
        raise AlitokError("With --split all, say with --kind what the reference is for: generation or reconstruction.")
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        require_large(options.data, options.size, reporter(console))
        splits = open_images_of(options.data, options.size, options.seed, console)
        broken = verify(splits, "all" if options.features == "classifier" else options.split, world, console)
        tell_left_out(broken, console)
        splits = splits.without({key for key, _ in broken})
        extractor = open_extractor(options.features, options.inception_weights, splits, world, console)
        beside = options.out.with_suffix(".parts")
        images = source_images(options.data, splits, options.split)
        seen = seen_of(Work(extractor, world, console, beside, options.fresh), images)

        def write() -> None:
            moments = {"pool": seen.pool.total()}
            if seen.spatial is not None:
                moments["spatial"] = seen.spatial
            about = Provenance(
                kind=kind,
                network=extractor.name,
                resolution=options.size,
                dataset=splits.contents,
                images=images.settings["keys"],
            )
            save_statistics(options.out, moments, about, seen.features)
            discard_tree(beside)
            reporter(console)(f"{seen.count:,} images, for {kind}: {options.out}")

        world.on_rank0(write)
