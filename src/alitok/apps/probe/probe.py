"""`alitok probe`: how a tokenizer's codes depend on the image and on one another, and the image on them.

Perturbed images and predicted codes are of the validation set. Training images are for the small generator that is
trained to predict them, and for mutual information, which needs as many codes as there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from alitok.apps.probe.codecs import ProbedTokenizer, open_tokenizer
from alitok.apps.probe.images import EncodedImages, encode_images, first_images
from alitok.apps.probe.options import ProbeOptions
from alitok.apps.probe.report import write_probe
from alitok.apps.probe.result import CodePredictions, ProbeResult
from alitok.core.checkpoint import fingerprint
from alitok.core.config import to_dict
from alitok.core.console import progress_bar
from alitok.core.device import choose_device
from alitok.core.distributed import launched
from alitok.core.errors import AlitokError
from alitok.core.files import file_name
from alitok.core.images import to_float
from alitok.core.jobdir import JobDir, differences
from alitok.core.system import require_libraries, stoppable
from alitok.data.sources.builtin import BUILTIN
from alitok.data.split import Splits
from alitok.data.survey import short_side
from alitok.generator import Generator
from alitok.metrics.codec import check_codec
from alitok.metrics.influence import Influence, influence_of
from alitok.metrics.mutual import MutualInformation, mutual_information
from alitok.metrics.reach import Reach, reach_of
from alitok.run.images import open_images, report_left_out
from alitok.run.report import environment
from alitok.train.predictability import PredictabilityConfig, measure_predictability, predict_codes

IMAGES = 128  # default number of perturbed images
_MAX_VAL = 2048  # validation images whose codes are predicted
_MAX_CODEBOOK = 65536  # larger ones are reduced to the codes that occur, or a small generator would be all codebook
_TRIED = 8  # images that a codec is checked on
_OVERFIT = 0.15  # difference of training and validation accuracy from which on a warning is due
_PARTS = ("tokenizer", "generator", "model")  # folders of every run, whose names identify nothing
_OUTPUTS = ("maps.npz", "influence.png", "reach.png", "report.html")
_DEFAULT_TRAINING = PredictabilityConfig()


@dataclass(frozen=True, eq=False)
class _Session:
    options: ProbeOptions
    training: PredictabilityConfig
    tokenizer: ProbedTokenizer
    splits: Splits
    grid: int
    prefix: int
    console: Console
    device: torch.device
    seconds: dict[str, float]

    @contextmanager
    def part(self, name: str, title: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """Times a part and shows its progress; yields a function of the number done and the total."""
        began = time.perf_counter()
        with progress_bar(self.console, title, total) as bar:
            yield lambda done, of: bar.advance(done, {} if of > 1 else None, of)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def run_probe(
    options: ProbeOptions, *, command: str, training: PredictabilityConfig = _DEFAULT_TRAINING
) -> dict[str, float]:
    """Probe a tokenizer; returns the numbers by name. `training` is of the small generator.

    AlitokError where tokenizer, data or generator cannot be used, or do not match.
    """
    _check(options)
    root = probe_directory(options)
    console, device = Console(), choose_device(options.device)
    opened = open_tokenizer(options.tokenizer, image_size=options.image_size, grid=options.grid, device=device)
    with stoppable(), opened as tokenizer:
        splits = open_images(options.data, tokenizer.image_size, options.seed, console)
        tried = to_float(first_images(splits.val, options.seed, _TRIED))
        grid, prefix = check_codec(tokenizer.codec, tried, grid=tokenizer.grid)
        session = _Session(options, training, tokenizer, splits, grid, prefix, console, device, {})
        generator = _open_generator(session)
        val, train = _encode(session, "validation"), _encode(session, "training")
        report_left_out([*val.broken, *train.broken], console)
        influence, reach = _influence(session, val), _reach(session, val)
        predictions = _predict(session, generator, train, val)
        with session.part("mutual", "positions compared", 1) as progress:
            every = torch.cat([train.codes, val.codes]).numpy()
            mutual = mutual_information(every, seed=options.seed, lags=(1, grid))
            progress(1, 1)
        result = ProbeResult(
            title=f"alitok: {options.tokenizer}",
            data=splits.name,
            command=command,
            influence=influence,
            reach=reach,
            predictions=predictions,
            mutual=mutual,
            seconds=session.seconds,
            warnings=tuple(_warnings(session, influence, reach, predictions, mutual)),
            protocol={**_protocol(session, generator, train, val), "command": command, **environment(device)},
        )
        write_probe(result, root, console)
        return result.numbers()


def _check(options: ProbeOptions) -> None:
    for name, value, least in (
        ("--images", options.images, 2),
        ("--per-position", options.per_position, 2),
        ("--batch-size", options.batch_size, 2),
        ("--grid", options.grid, 1),
        ("--image-size", options.image_size, 1),
    ):
        if value is not None and value < least:
            raise AlitokError(f"{name} must be at least {least}, not {value}.")
    if launched():
        raise AlitokError("A probe runs in one process; start it without torchrun.")
    require_libraries("A probe's report", "demo", "jinja2", "matplotlib")


def _encode(session: _Session, split: str) -> EncodedImages:
    """Codes of a split, and images of the validation split."""
    options, val = session.options, split == "validation"
    source = session.splits.val if val else session.splits.train
    limit = _MAX_VAL if val else session.training.images
    with session.part("codes", f"{split} images encoded", min(limit, len(source))) as progress:
        return encode_images(
            session.tokenizer.codec,
            source,
            seed=options.seed,
            limit=limit,
            returned=min(options.images or IMAGES, _MAX_VAL) if val else 0,
            batch_size=options.batch_size,
            progress=progress,
        )


def _influence(session: _Session, val: EncodedImages) -> Influence:
    options = session.options
    with session.part("influence", "patches replaced", len(val.images) * session.grid**2) as progress:
        return influence_of(
            session.tokenizer.codec,
            to_float(val.images),
            grid=session.grid,
            prefix=session.prefix,
            seed=options.seed,
            batch_size=options.batch_size,
            per_patch=options.per_position,
            progress=progress,
        )


def _reach(session: _Session, val: EncodedImages) -> dict[str, Reach]:
    options, codes, found = session.options, val.codes[: len(val.images)], {}
    for name, codec in session.tokenizer.decoders.items():
        with session.part("reach", f"codes replaced ({name})", codes.numel()) as progress:
            found[name] = reach_of(
                codec,
                codes,
                image_size=session.tokenizer.image_size,
                grid=session.grid,
                prefix=session.prefix,
                seed=options.seed,
                batch_size=options.batch_size,
                per_code=options.per_position,
                progress=progress,
            )
    return found


def _open_generator(session: _Session) -> tuple[Generator, torch.Tensor] | None:
    """The generator of --generator and its number of each class of the data; both must match the tokenizer."""
    name, tokenizer = session.options.generator, session.tokenizer
    if name is None:
        return None
    generator = Generator.from_pretrained(name).to(session.device)
    config = generator.config
    size = config.codebook_size if tokenizer.codebook_size is None else tokenizer.codebook_size
    theirs, ours = (config.prefix, config.grid, config.codebook_size), (session.prefix, session.grid, size)
    if theirs != ours:
        raise AlitokError(
            f"{name} predicts {theirs[0]} prefix and {theirs[1]} x {theirs[1]} grid codes out of {theirs[2]}, but "
            f"{tokenizer.name} has {ours[0]}, {ours[1]} x {ours[1]} and {ours[2]}; use a generator trained on its "
            "codes."
        )
    wanted, known = session.splits.train.classes, generator.class_names or session.splits.train.classes
    missing = [each for each in wanted if each not in known]
    if missing or len(known) != config.classes:
        raise AlitokError(
            f"{name} has {config.classes} classes, not all of the {len(wanted)} of {session.splits.name}"
            f"{f' (not {missing[0]!r})' if missing else ''}; give its training data."
        )
    return generator, torch.tensor([known.index(each) for each in wanted])


def _predict(
    session: _Session, given: tuple[Generator, torch.Tensor] | None, train: EncodedImages, val: EncodedImages
) -> CodePredictions:
    """By the given generator, conditioned on the class of each image; else by a small one trained for this."""
    count, prefix = len(val.codes), session.prefix
    with session.part("prediction", "codes predicted", 1) as progress:
        if given is not None:
            generator, classes = given
            size = generator.config.codebook_size
            if int(val.codes.max()) >= size:
                raise AlitokError(
                    f"{session.tokenizer.name} returns code {int(val.codes.max())}, but {session.options.generator} "
                    f"has {size}; use a generator trained on its codes."
                )
            found = predict_codes(generator, val.codes, classes[val.labels], session.options.batch_size)
            nats, accuracy = found.by_position()
            by = "the given generator, conditioned on the class"
            predictions = CodePredictions(by, nats.numpy(), accuracy.numpy(), prefix, None, count)
        else:
            codes, others, size = _compact(train.codes, val.codes, session.tokenizer.codebook_size)
            small = measure_predictability(
                codes,
                others,
                grid=session.grid,
                prefix=prefix,
                codebook_size=size,
                config=session.training,
                device=session.device,
                seed=session.options.seed,
            )
            by = f"a small unconditional generator trained on the codes of {len(codes):,} images"
            arrays = np.array(small.nats), np.array(small.accuracy_by_position)
            predictions = CodePredictions(by, *arrays, prefix, small.train_accuracy, count)
        progress(1, 1)
    return predictions


def _compact(codes: torch.Tensor, others: torch.Tensor, size: int | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Both sets of codes and the codebook size; renumbered if that is unknown or very large."""
    if size is not None and size <= _MAX_CODEBOOK:
        return codes, others, size
    known, numbers = torch.cat([codes, others]).unique(return_inverse=True)
    return numbers[: len(codes)], numbers[len(codes) :], len(known)


def _warnings(
    session: _Session,
    influence: Influence,
    reach: Mapping[str, Reach],
    predictions: CodePredictions,
    mutual: MutualInformation,
) -> Iterator[str]:
    options, size = session.options, session.tokenizer.image_size
    if options.images is not None and influence.images < options.images:
        yield f"Only {influence.images:,} of the {options.images:,} requested validation images exist."
    if np.isnan(influence.future_fraction):
        yield "No patch changes any code: the encoder ignores its input, or all images are alike."
    for name, each in reach.items():
        if np.isnan(each.past_fraction):
            yield f"No code changes any patch ({name}): the decoder ignores its input."
    if options.data not in BUILTIN and short_side(options.data) < size:
        yield f"Most images of {options.data} are smaller than {size} px and were enlarged."
    train_accuracy, accuracy = predictions.train_accuracy, predictions.accuracy.mean()
    if train_accuracy is not None and train_accuracy - accuracy > _OVERFIT:
        yield (
            f"The small generator overfits (top-1 accuracy {train_accuracy:.1%} in training, {accuracy:.1%} in "
            "validation): there are too few images, and the codes are easier to predict than its numbers suggest."
        )
    if mutual.too_few_images:
        yield (
            f"{mutual.images:,} images are too few for mutual information: chance makes up more than half of the "
            "uncorrected estimate. The corrected one is too low for dependent codes and compares only with that of as "
            "many images and as large a codebook."
        )


def _protocol(
    session: _Session, given: tuple[Generator, torch.Tensor] | None, train: EncodedImages, val: EncodedImages
) -> dict[str, Any]:
    options, tokenizer = session.options, session.tokenizer
    facts: dict[str, Any] = {
        **probed(options),
        **tokenizer.facts,
        "image size": tokenizer.image_size,
        "codes per image": f"{session.prefix} + {session.grid} x {session.grid}",
        "codebook size": "unknown" if tokenizer.codebook_size is None else tokenizer.codebook_size,
        "data contents": session.splits.contents,
        "seed": options.seed,
        "perturbed images": len(val.images),
        "predicted images": len(val.codes),
        "training images": len(train.codes),
        "left out": [broken.key for broken in (*val.broken, *train.broken)],
    }
    if given is None:
        facts["generator training"] = to_dict(session.training)
    else:
        facts["generator weights"] = fingerprint(given[0].state_dict(), to_dict(given[0].config))
    return {**facts, "batch size": options.batch_size}


def probed(options: ProbeOptions) -> dict[str, str]:
    """What is probed, as in the protocol of `probe.json`."""
    generator = options.generator or "a small one, trained for this"
    return {"tokenizer": options.tokenizer, "data": options.data, "generator": generator}


def probe_directory(options: ProbeOptions) -> Path:
    """The directory, given or named after what is probed.

    AlitokError where it is a file, or holds other files or a probe of something else.
    """
    root = options.out or default_out(options)
    # Allowed are the files of a probe that was stopped while it wrote them.
    job = JobDir(root, "probe.json", "probe", _OUTPUTS, {"kind": "probe", "protocol": None}, allowed=_OUTPUTS)
    found = job.read()
    if found is not None:
        before, now = (
            {name: _resolved(facts.get(name)) for name in probed(options)}
            for facts in (found["protocol"], probed(options))
        )
        changed = differences(before, now)
        if changed:
            raise job.conflict(changed, before, now, hint="choose another directory with --out, or delete that one")
    return root


def default_out(options: ProbeOptions) -> Path:
    """`runs/probe-TOKENIZER-DATA` with the run's name for the model of a run, and `-generator` if one is given."""
    path = Path(options.tokenizer if ":" in options.tokenizer else Path(options.tokenizer).resolve())
    while path.name in _PARTS and path.parent.name:
        path = path.parent
    if path.name == "stage1" and path.parent.name:
        path = path.with_name(f"{path.parent.name}-stage1")
    generator = "" if options.generator is None else "-generator"
    return Path("runs", f"probe-{file_name(str(path))}-{file_name(options.data)}{generator}")


def _resolved(value: object) -> object:
    """An existing path however it is spelled; anything else as it is."""
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value
