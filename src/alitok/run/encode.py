"""`alitok encode`: images of any source to a store of codes, by one process, many, or independent jobs.

Enters: a saved tokenizer and what the user wrote for the data. Leaves: a store, see `alitok.data.codes.shards`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from alitok.core.console import counted, progress_bar
from alitok.core.device import DeviceName
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.core.system import stoppable
from alitok.data.codes.shards import find_head, require_store
from alitok.data.crops import CropRecipe
from alitok.data.sources.decoded import ImageSource
from alitok.data.sources.images import Broken
from alitok.data.split import Splits, joined
from alitok.run.encode_shards import Encoded, Origin, encode_store
from alitok.run.originals import SplitName, open_images_of, tell_left_out, verify
from alitok.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodeOptions:
    """What the user asked for; see `alitok encode --help`."""

    tokenizer: Path
    data: str
    out: Path
    crops: CropRecipe = "centre"
    split: SplitName = "all"
    part: str | None = None
    batch_size: int = 256
    workers: int = 0
    fresh: bool = False
    device: DeviceName = "auto"
    seed: int = 0


def run_encode(options: EncodeOptions) -> None:
    """Write the store, or what is missing of it; every process of a run calls this.

    Raises:
        AlitokError: the tokenizer or the data cannot be used, too many images are broken, or `out` holds something
            else than this store.
    """
    began = time.monotonic()
    part = _part(options)
    if options.batch_size < 1 or options.workers < 0:
        raise AlitokError("--batch-size must be at least 1 and --workers at least 0.")
    with join(options.device) as world, stoppable():
        console = Console(quiet=not world.main)
        tokenizer = Tokenizer.from_pretrained(options.tokenizer).to(world.device)
        if options.fresh:
            world.on_rank0(lambda: require_store(options.out))  # before hours are spent on checking the images
        splits = open_images_of(options.data, tokenizer.config.image_size, options.seed, console)
        broken = _broken(options, splits, world, console)
        source = _chosen(splits.without({key for key, _ in broken}), options)
        origin = Origin(splits.name, splits.contents, options.split, _place(options.tokenizer), tuple(broken))
        with progress_bar(console, f"{source.name} to codes", len(source)) as bar:
            encoded = encode_store(
                tokenizer,
                source,
                options.out,
                recipe=options.crops,
                origin=origin,
                world=world,
                part=part,
                batch_size=options.batch_size,
                workers=options.workers,
                fresh=options.fresh,
                progress=lambda done, total: bar.advance(done, {}, total),
            )
        _tell(console, options, encoded, time.monotonic() - began)


def _part(options: EncodeOptions) -> tuple[int, int]:
    """Number of this job, from 0, and of all."""
    if options.part is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", options.part)
    job, jobs = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= job <= jobs:
        raise AlitokError(f"--part {options.part}: write it as i/n with i from 1 to n, such as 1/4.")
    if options.fresh and jobs > 1:
        raise AlitokError("--fresh with --part would throw away what the other parts made; delete the store instead.")
    return job - 1, jobs


def _place(tokenizer: Path) -> str:
    return str(tokenizer.resolve()) if tokenizer.exists() else str(tokenizer)


def _broken(options: EncodeOptions, splits: Splits, world: World, console: Console) -> list[Broken]:
    """The images to leave out: those that an earlier start left out, or those found by reading all of them."""

    def remembered() -> list[Broken] | None:
        head = None if options.fresh else find_head(options.out)
        if head is None or (head.source, head.contents, head.split) != (splits.name, splits.contents, options.split):
            return None
        return [Broken(*image) for image in head.left_out]

    broken = world.on_rank0(remembered)
    if broken is None:
        broken = verify(splits, options.split, world, console)
    tell_left_out(broken, console)
    return broken


def _chosen(splits: Splits, options: EncodeOptions) -> ImageSource:
    if options.split == "all":
        return joined(splits, options.crops)
    return splits.train if options.split == "train" else splits.val


def _tell(console: Console, options: EncodeOptions, encoded: Encoded, seconds: float) -> None:
    head, out = encoded.head, options.out
    if not encoded.whole:
        made = f"{encoded.made} of {counted(head.shards, 'shard')}"
        console.print(f"Part {options.part} is done, {made}; the store is whole when all parts are.", highlight=False)
        return
    sequences = head.images * len(head.crops)
    each, bare = sum(file.stat().st_size for file in out.iterdir()) / sequences, 2 * head.length
    made = f"{counted(head.images, 'image')} x {counted(len(head.crops), 'crop')}"
    console.print(
        f"{made} = {counted(sequences, 'sequence')} of {head.length} codes in {counted(head.shards, 'shard')}; "
        f"{each:,.1f} bytes a sequence, {each / bare:.3f} x its codes; "
        f"{f'{seconds:.1f} s' if encoded.made else 'all of it was there before'}: {out}",
        highlight=False,
        soft_wrap=True,
    )
