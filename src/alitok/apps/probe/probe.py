"""`alitok probe`: how the codes of a tokenizer depend on the image, on one another, and the image on them.

Enters: a tokenizer, ours or any other with `encode` and `decode`, and a data set. Leaves, in OUT:

    probe.json                    all numbers, their intervals, and what they depend on; written last
    maps.npz                      all maps
    influence.png, reach.png      the two that the command is about
    report.html                   the same for people

Held-out images are disturbed and validation codes are guessed. Training images serve the small generator that learns
to guess them, and mutual information, which is of the codes and needs as many as there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from alitok.apps.probe.codecs import Subject, open_subject
from alitok.apps.probe.originals import Coded, encode_images, first_images
from alitok.apps.probe.place import default_place, probed, require_place
from alitok.apps.probe.report import write_probe
from alitok.apps.probe.result import Losses, ProbeResult
from alitok.core import images as pixels
from alitok.core.checkpoint import fingerprint
from alitok.core.config import to_dict
from alitok.core.console import progress_bar
from alitok.core.device import DeviceName, choose_device
from alitok.core.distributed import launched
from alitok.core.errors import AlitokError
from alitok.core.system import require_libraries, stoppable
from alitok.data.sources.builtin import BUILTIN
from alitok.data.split import Splits
from alitok.data.survey import short_side
from alitok.generator import Generator
from alitok.metrics.codec import check_codec
from alitok.metrics.influence import Influence, influence_of
from alitok.metrics.mutual import Mutual, mutual_information
from alitok.metrics.reach import Reach, reach_of
from alitok.run.originals import open_images_of, tell_left_out
from alitok.run.summary import environment
from alitok.train.next_code import predict_codes
from alitok.train.predictability import PredictabilityConfig, measure_predictability

IMAGES = 128  # that are disturbed unless another number is given
_MOST_VAL = 2048  # validation images whose codes are guessed
_MOST_CODEBOOK = 65536  # larger ones are reduced to the codes that come, or a small generator would be all codebook
_TRIED = 8  # images that a codec is tried out on
_BY_HEART = 0.15  # accuracy on training codes, above that on held-out ones, from which on a reader is warned


@dataclass(frozen=True)
class ProbeOptions:
    """What the user asked for; see `alitok probe --help`."""

    tokenizer: str
    data: str
    out: Path | None = None
    generator: str | None = None
    images: int | None = None
    per_place: int | None = None
    image_size: int | None = None
    grid: int | None = None
    seed: int = 0
    batch_size: int = 64
    device: DeviceName = "auto"
    training: PredictabilityConfig = field(default_factory=PredictabilityConfig)
    command: str = ""

    @property
    def place(self) -> Path:
        """OUT, or a directory that is named after what is probed."""
        return self.out or default_place(self.tokenizer, self.data, self.generator)


@dataclass(frozen=True, eq=False)
class _Job:
    """What is probed, on what, and with which settings."""

    options: ProbeOptions
    subject: Subject
    splits: Splits
    grid: int
    prefix: int
    console: Console
    device: torch.device
    seconds: dict[str, float]

    @contextmanager
    def part(self, name: str, title: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """Times a part and shows how far it is; yields what takes the number done and all there is."""
        began = time.perf_counter()
        with progress_bar(self.console, title, total) as bar:
            yield lambda done, of: bar.advance(done, {} if of > 1 else None, of)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def run_probe(options: ProbeOptions) -> dict[str, float]:
    """Probe a tokenizer.

    Returns:
        The numbers by name.

    Raises:
        AlitokError: tokenizer, data or generator cannot be used, or do not go together.
    """
    _check(options)
    console, device = Console(), choose_device(options.device)
    subjects = open_subject(options.tokenizer, image_size=options.image_size, grid=options.grid, device=device)
    with stoppable(), subjects as subject:
        splits = open_images_of(options.data, subject.image_size, options.seed, console)
        tried = pixels.to_float(first_images(splits.val, options.seed, _TRIED))
        grid, prefix = check_codec(subject.codec, tried, grid=subject.grid)
        job = _Job(options, subject, splits, grid, prefix, console, device, {})
        generator = _open_generator(job)
        val, train = _coded(job, "held-out"), _coded(job, "training")
        tell_left_out([*val.broken, *train.broken], console)
        influence = _influence(job, val)
        reach = _reach(job, val)
        losses = _losses(job, generator, train, val)
        mutual = _mutual(job, train, val)
        result = ProbeResult(
            title=f"alitok: {options.tokenizer}",
            data=splits.name,
            command=options.command,
            influence=influence,
            reach=reach,
            losses=losses,
            mutual=mutual,
            seconds=job.seconds,
            warnings=tuple(_warnings(job, influence, reach, losses, mutual)),
            protocol=_protocol(job, generator, train, val),
        )
        write_probe(result, options.place, console)
        return result.numbers()


def _check(options: ProbeOptions) -> None:
    """Refuse to begin what could not be concluded."""
    for name, value, least in (
        ("--images", options.images, 2),
        ("--per-place", options.per_place, 2),
        ("--batch-size", options.batch_size, 2),
        ("--grid", options.grid, 1),
        ("--image-size", options.image_size, 1),
    ):
        if value is not None and value < least:
            raise AlitokError(f"{name} must be at least {least}, not {value}.")
    if launched():
        raise AlitokError("A probe runs in one process; start it without torchrun.")
    require_libraries("A probe's report", "demo", "jinja2", "matplotlib")
    require_place(options.place, probed(options.tokenizer, options.data, options.generator))


def _coded(job: _Job, split: str) -> Coded:
    """Codes of a split; images are kept of the held-out one."""
    options, held = job.options, split == "held-out"
    source = job.splits.val if held else job.splits.train
    most = _MOST_VAL if held else options.training.images
    kept = min(options.images or IMAGES, _MOST_VAL) if held else 0
    with job.part("codes", f"{split} images encoded", min(most, len(source))) as tell:
        return encode_images(
            job.subject.codec,
            source,
            seed=options.seed,
            most=most,
            kept=kept,
            batch_size=options.batch_size,
            tell=tell,
        )


def _influence(job: _Job, val: Coded) -> Influence:
    options = job.options
    with job.part("influence", "patches disturbed", len(val.images) * job.grid**2) as tell:
        return influence_of(
            job.subject.codec,
            pixels.to_float(val.images),
            grid=job.grid,
            prefix=job.prefix,
            seed=options.seed,
            batch_size=options.batch_size,
            per_patch=options.per_place,
            progress=tell,
        )


def _reach(job: _Job, val: Coded) -> dict[str, Reach]:
    options, codes, found = job.options, val.codes[: len(val.images)], {}
    for name, codec in job.subject.decoders.items():
        with job.part("reach", f"codes replaced ({name})", codes.numel()) as tell:
            found[name] = reach_of(
                codec,
                codes,
                image_size=job.subject.image_size,
                grid=job.grid,
                prefix=job.prefix,
                seed=options.seed,
                batch_size=options.batch_size,
                per_code=options.per_place,
                progress=tell,
            )
    return found


@dataclass(frozen=True, eq=False)
class _Asked:
    """A generator that was named, and the number that it knows each class of the data by."""

    generator: Generator
    classes: torch.Tensor


def _open_generator(job: _Job) -> _Asked | None:
    """The generator that was named.

    Raises:
        AlitokError: it cannot be read, or was made for other codes or classes.
    """
    name, subject = job.options.generator, job.subject
    if name is None:
        return None
    generator = Generator.from_pretrained(name).to(job.device)
    config = generator.config
    size = config.codebook_size if subject.codebook_size is None else subject.codebook_size
    theirs, ours = (config.prefix, config.grid, config.codebook_size), (job.prefix, job.grid, size)
    if theirs != ours:
        raise AlitokError(
            f"{name} guesses {theirs[0]} prefix and {theirs[1]} x {theirs[1]} grid codes out of {theirs[2]}, but "
            f"{subject.name} has {ours[0]}, {ours[1]} x {ours[1]} and {ours[2]}; use the two trained together."
        )
    wanted, known = job.splits.train.classes, generator.class_names or job.splits.train.classes
    missing = [each for each in wanted if each not in known]
    if missing or len(known) != config.classes:
        raise AlitokError(
            f"{name} knows {config.classes} classes, and not all of {len(wanted)} of {job.splits.name}"
            f"{f' (not {missing[0]!r})' if missing else ''}; give the data that it was trained on."
        )
    return _Asked(generator, torch.tensor([known.index(each) for each in wanted]))


def _losses(job: _Job, asked: _Asked | None, train: Coded, val: Coded) -> Losses:
    """Of the generator that was named, told the class of each image; else of a small one that learns the codes."""
    training, count = job.options.training, len(val.codes)
    with job.part("loss", "codes guessed", 1) as tell:
        if asked is not None:
            _refuse_unknown(job, val.codes, asked.generator.config.codebook_size)
            found = predict_codes(asked.generator, val.codes, asked.classes[val.labels], job.options.batch_size)
            nats, right = found.by_position()
            losses = Losses("the generator, told the class", nats.numpy(), right.numpy(), job.prefix, None, count)
        else:
            codes, others, size = _numbered(train.codes, val.codes, job.subject.codebook_size)
            probed = measure_predictability(
                codes,
                others,
                grid=job.grid,
                prefix=job.prefix,
                codebook_size=size,
                config=training,
                device=job.device,
                seed=job.options.seed,
            )
            by = f"a small generator of {len(codes):,} training images, told no class"
            arrays = np.array(probed.nats), np.array(probed.accuracy_by_position)
            losses = Losses(by, *arrays, job.prefix, probed.train_accuracy, count)
        tell(1, 1)
    return losses


def _refuse_unknown(job: _Job, codes: torch.Tensor, size: int) -> None:
    if int(codes.max()) >= size:
        raise AlitokError(
            f"{job.subject.name} gives code {int(codes.max())}, and {job.options.generator} knows those below {size}; "
            "use the two trained together."
        )


def _numbered(codes: torch.Tensor, others: torch.Tensor, size: int | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Both sets of codes and how many codes there are; numbered anew where nobody says, or they are very many."""
    if size is not None and size <= _MOST_CODEBOOK:
        return codes, others, size
    known, numbers = torch.cat([codes, others]).unique(return_inverse=True)
    return numbers[: len(codes)], numbers[len(codes) :], len(known)


def _mutual(job: _Job, train: Coded, val: Coded) -> Mutual:
    codes = torch.cat([train.codes, val.codes]).numpy()
    with job.part("mutual", "positions compared", 1) as tell:
        found = mutual_information(codes, seed=job.options.seed, lags=(1, job.grid))
        tell(1, 1)
    return found


def _warnings(
    job: _Job, influence: Influence, reach: Mapping[str, Reach], losses: Losses, mutual: Mutual
) -> Iterator[str]:
    """What a reader must know before the numbers."""
    options, size = job.options, job.subject.image_size
    wanted = options.images or IMAGES
    if influence.images < wanted and options.images is not None:
        yield f"There are {influence.images:,} validation images to disturb, fewer than the {wanted:,} asked for."
    if np.isnan(influence.future_share):
        yield "No patch moves any code: the encoder gives the same codes whatever it sees, or all images are alike."
    for name, each in reach.items():
        if np.isnan(each.past_share):
            yield f"No code moves any patch ({name}): the decoder draws the same image whatever it reads."
    if options.data not in BUILTIN and short_side(options.data) < size:
        yield f"Most images of {options.data} are smaller than {size} pixels and were enlarged."
    if losses.train_accuracy is not None and losses.train_accuracy - losses.right.mean() > _BY_HEART:
        yield (
            f"The small generator has learnt its images by heart ({losses.train_accuracy:.1%} of their codes right, "
            f"{losses.right.mean():.1%} of others'): there are too few, and codes are easier to guess than this says."
        )
    if mutual.too_few:
        yield (
            f"{mutual.images:,} images are too few for mutual information: chance makes up more than half of what "
            "they show. What is left after it is taken away is too low where codes do depend on one another; compare "
            "it only with that of as many images, and of as large a codebook."
        )


def _protocol(job: _Job, asked: _Asked | None, train: Coded, val: Coded) -> dict[str, Any]:
    """All that the numbers depend on."""
    options, subject = job.options, job.subject
    facts: dict[str, Any] = {
        **probed(options.tokenizer, options.data, options.generator),
        **subject.facts,
        "image size": subject.image_size,
        "codes of an image": f"{job.prefix} + {job.grid} x {job.grid}",
        "codebook": "not stated" if subject.codebook_size is None else subject.codebook_size,
        "data contents": job.splits.contents,
        "seed": options.seed,
        "images disturbed": len(val.images),
        "images guessed": len(val.codes),
        "training images": len(train.codes),
        "left out": [broken.key for broken in (*val.broken, *train.broken)],
    }
    if asked is None:
        facts["its training"] = to_dict(options.training)
    else:
        facts["generator weights"] = fingerprint(asked.generator.state_dict(), to_dict(asked.generator.config))
    facts |= {"batch size": options.batch_size, "command": options.command}
    return {**facts, **environment(job.device)}
