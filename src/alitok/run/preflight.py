"""Checks before days of training: images, labels and codes, and whether a few examples can be overfitted.

Written to `preflight/STAGE/`, and read by nothing else: `preflight.json` with every number and its bound, and sheets.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alitok.core import images as pixels
from alitok.core.console import progress_bar
from alitok.core.files import remove
from alitok.data.sources.decoded import fixed_views
from alitok.metrics.reconstruction import psnr
from alitok.recipes.presets import StageName
from alitok.run.findings import Findings, by_class, rows_by_class
from alitok.run.run import Run
from alitok.run.stores import check_codes, check_mse
from alitok.run.tasks import Training, Trainings
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Stage
from alitok.train.overfit import DISTINCT, STEPS, OverfitCheck, overfit_one_batch, overfit_phases, repeat_examples
from alitok.train.predictability import PredictabilityConfig
from alitok.train.task import Batch

# What a rehearsal must reach. The small recipes are there after 50 (generator) to 200 steps (tokenizer), that of the
# digits at a twentieth of its rate after 700.
_MSE = 0.5  # of the MSE of the mean image
_PREDICTED = 0.9  # of all codes that earlier ones determine
_FALL = 0.7  # mean of the last ten losses, over the first
_SHOWN = 8
_REPORT = "this is a bug in alitok, please report it."


def preflight(run: Run, stage: StageName, *, images: bool = True) -> Path:
    """Check what a training starts from, and rehearse it; every rank calls this. Returns the directory written.

    The steps of `run` before the stage are done; without `images`, it has codes alone.

    Raises:
        AlitokError: something is wrong; the message has the first fault, `preflight.json` all.
    """
    directory = run.root / "preflight" / stage
    findings, world = Findings(stage, directory), run.world
    world.on_rank0(lambda: remove(directory))
    world.on_rank0(lambda: _check_data(run, stage, findings, images))
    findings.conclude(world)
    training = _rehearsed(run.trainings, stage)
    batch = _first_batch(run, training, findings)
    findings.conclude(world)
    _learn(run, stage, training, repeat_examples(batch, world), findings)
    findings.conclude(world, last=True)
    return directory


def _check_data(run: Run, stage: StageName, findings: Findings, images: bool) -> None:
    """What can be checked without training, on one rank."""
    source = run.splits.train
    counts = np.bincount(source.labels, minlength=len(source.classes))
    findings.record("images of each class", dict(zip(source.classes, counts.tolist(), strict=True)))
    if stage == "generator":
        check_codes(run, findings, images=images)
        return
    chosen = rows_by_class(source.labels, len(source.classes))
    shown = fixed_views(source, chosen)
    if not _are_images(torch.from_numpy(shown), "the images of classes.png", findings):
        return
    findings.sheet("classes", by_class(shown, source.labels[chosen], source.classes))
    if stage == "stage2":
        _check_stage1(run, findings)


@torch.inference_mode()
def _check_stage1(run: Run, findings: Findings) -> None:
    """Whether the stage-1 decoder reconstructs from the codes that stage 2 will read."""
    source, path = run.splits.train, run.root / "stage1" / "tokenizer"
    tokenizer = Tokenizer.from_pretrained(path).to(run.world.device)
    rows = np.unique(np.linspace(0, len(source) - 1, DISTINCT).astype(int))
    originals = fixed_views(source, rows)
    images = pixels.to_float(torch.from_numpy(originals)).to(run.world.device)
    decoded = tokenizer.reconstruct(images, "stage1")
    findings.sheet("stage1", _compared(originals, decoded))
    findings.record("PSNR of stage 1", psnr(images, decoded).mean().item())
    advice = "Train stage 1 again, longer or at another learning rate, in another directory."
    check_mse("MSE of stage 1", "stage 1", images, decoded, advice, findings)


def _compared(images: np.ndarray, decoded: torch.Tensor) -> list[tuple[str, np.ndarray]]:
    return [("images", images[:_SHOWN]), ("decoded", pixels.to_uint8(decoded[:_SHOWN]).cpu().numpy())]


def _rehearsed(trainings: Trainings, stage: StageName) -> Training:
    """The training as it will be, in the phases of a rehearsal."""
    recipe: Any = trainings.recipe
    training = getattr(recipe, stage)
    changes: dict[str, Any] = {"phases": overfit_phases(training.phases)}
    if stage != "generator":
        changes["predictability"] = PredictabilityConfig()  # never, so its images are not read
    short = dataclasses.replace(recipe, **{stage: dataclasses.replace(training, **changes)})
    trainings = dataclasses.replace(trainings, recipe=short)
    return trainings.generator() if stage == "generator" else trainings.stage(stage)


def _first_batch(run: Run, training: Training, findings: Findings) -> Batch:
    """This rank's part of the first batch of the training."""
    stage, classes = training.task.name, run.splits.train.classes
    batch, again = (next(iter(training.task.batches(0))) for _ in range(2))
    values, labels = batch
    ends = int(labels.min()), int(labels.max())
    findings.check(
        "range of labels",
        list(ends),
        f"within 0 and {len(classes) - 1}",
        0 <= ends[0] <= ends[1] < len(classes),
        f"labels of the first batch reach from {ends[0]} to {ends[1]}, and there are {len(classes)} classes; check the "
        "data.",
    )
    if stage == "generator":
        size, length = run.recipe.tokenizer.codebook_size, run.recipe.tokenizer.sequence_length
        ends = int(values.min()), int(values.max())
        fits = values.shape[1] == length and 0 <= ends[0] <= ends[1] < size
        fault = f"codes (B, {values.shape[1]}) from {ends[0]} to {ends[1]} do not fit {length} codes below {size}."
        findings.check("range of codes", list(ends), f"within 0 and {size - 1}", fits, fault)
    else:
        _are_images(values, "the images of the first batch", findings)
        if run.world.main and not findings.faults:
            findings.sheet("batch", by_class(values.numpy(), labels.numpy(), classes))
    same = all(torch.equal(first, second) for first, second in zip(batch, again, strict=True))
    fault = "the first batch differs when it is read again; the images change while they are read."
    findings.check("first batch, read twice", same, "the same bits", same, fault)
    return batch


def _are_images(images: torch.Tensor, which: str, findings: Findings) -> bool:
    low, high = images.min().item(), images.max().item()
    return findings.check(
        f"pixels of {which}",
        [str(images.dtype), str(low), str(high)],
        "torch.uint8, more than one value",
        images.dtype == torch.uint8 and low < high,
        f"the pixels of {which} are {images.dtype} from {low:.4g} to {high:.4g}, not several integers from 0 to "
        "255; check the data with alitok data inspect.",
    )


@dataclass(frozen=True)
class _Goal:
    """What a rehearsal must reach: `measure` evaluates it on the examples of this rank."""

    name: str
    bound: str
    measure: Callable[[nn.Module], float]
    reached: Callable[[float], bool]


def _reconstruction(run: Run, stage: Stage, originals: torch.Tensor) -> _Goal:
    """MSE of reconstructions over that of the mean image, both over all ranks."""
    images = pixels.to_float(originals.to(run.world.device))
    mean = run.world.mean(images.mean(0))
    spread = run.world.mean((images - mean).square().mean()).clamp(min=1e-12).item()

    def measure(model: nn.Module) -> float:
        return float((model(images, stage).images - images).square().mean()) / spread

    name = f"MSE on {DISTINCT} images, over that of the mean image"
    return _Goal(name, f"at most {_MSE}", measure, lambda value: value <= _MSE)


def _prediction(run: Run, codes: torch.Tensor, classes: torch.Tensor) -> _Goal:
    """Top-1 token accuracy, without dropout."""
    gathered = (chain.from_iterable(run.world.gather(part.tolist())) for part in (codes, classes))
    bound = _PREDICTED * _predictable(*map(list, gathered))
    codes, classes = codes.to(run.world.device), classes.to(run.world.device)

    def measure(model: nn.Module) -> float:
        return float((model(codes[:, :-1], classes).argmax(-1) == codes).float().mean())

    name = f"accuracy on {DISTINCT} sequences"
    return _Goal(name, f"at least {bound:.3f}", measure, lambda value: value >= bound)


def _predictable(sequences: list[list[int]], labels: list[int]) -> float:
    """The best possible token accuracy from class and earlier codes, which do not determine the first code."""
    followers: dict[tuple[int, ...], Counter[int]] = {}
    for codes, label in zip(sequences, labels, strict=True):
        for place, code in enumerate(codes):
            followers.setdefault((label, *codes[:place]), Counter())[code] += 1
    return sum(max(seen.values()) for seen in followers.values()) / sum(len(codes) for codes in sequences)


def _learn(run: Run, stage: StageName, training: Training, batch: Batch, findings: Findings) -> None:
    """Overfit a few examples."""
    world, model = run.world, training.model
    if not _check_trainable(stage, model, findings):
        return
    codes_before = model.codes_fingerprint() if isinstance(model, Tokenizer) and stage == "stage2" else None
    values, labels = (part[: max(1, DISTINCT // world.size)] for part in batch)
    goal = _prediction(run, values, labels) if stage == "generator" else _reconstruction(run, stage, values)
    with progress_bar(run.directory.console, f"rehearsal of {stage}", STEPS) as bar:
        found = overfit_one_batch(
            training.task,
            training.loop,
            run.recipe.engine,
            world,
            batch=batch,
            seed=run.seed,
            measure=goal.measure,
            enough=lambda value, losses: goal.reached(value) and _fall(losses) <= _FALL,
            advance=lambda step, loss: bar.advance(step, {"loss": loss}),
        )
    for phase, seconds in found.seconds.items():
        findings.record(f"seconds per step, phase {phase}", seconds)
        findings.record(f"images per second, phase {phase}", training.loop.batch_size / seconds)
    findings.record("peak memory in GB, of the rank with the most", found.peak_bytes / 1e9)
    findings.record("losses", found.losses)
    _check_gradients(found, findings)
    if codes_before is not None:
        assert isinstance(model, Tokenizer)
        same = model.codes_fingerprint() == codes_before
        fault = f"the frozen encoder or codebook changed; {_REPORT}"
        findings.check("encoder and codebook after the rehearsal", same, "unchanged", same, fault)
    if found.failed_at is not None or found.losses:
        _check_learning(stage, training, found, goal, findings)
    whole = world.size == 1 or run.recipe.engine.parallel == "ddp"
    if stage != "generator" and world.main and whole:
        images = pixels.to_float(values.to(world.device))
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            findings.sheet("overfit", _compared(values.numpy(), model.eval()(images, stage).images))


def _check_trainable(stage: StageName, model: nn.Module, findings: Findings) -> bool:
    """Stage 1 trains all but the stage-2 decoder, stage 2 only that, the generator all."""
    still: list[str] = []
    moving: list[str] = []
    for name, parameter in model.named_parameters():
        second = name.startswith("stage2.")
        expected = {"stage1": not second, "stage2": second, "generator": True}[stage]
        if expected != parameter.requires_grad:
            (still if expected else moving).append(name)
    fault = f"{_some(still)} should be trained and is frozen; {_REPORT}"
    right = findings.check("parameters that are frozen by mistake", still, "none", not still, fault)
    fault = f"{_some(moving)} should be frozen and is trained; {_REPORT}"
    return findings.check("parameters that are trained by mistake", moving, "none", not moving, fault) and right


def _check_gradients(found: OverfitCheck, findings: Findings) -> None:
    fault = f"no gradient reached {_some(found.idle)}, which would never change; {_REPORT}"
    findings.check("parameters that no gradient reached", list(found.idle), "none", not found.idle, fault)
    findings.record("parameters whose gradient was always zero, as after a loss of weight 0", list(found.still))
    fault = f"a gradient reached {_some(found.disturbed)}, which should be frozen; {_REPORT}"
    findings.check("frozen parameters with a gradient", list(found.disturbed), "none", not found.disturbed, fault)


def _check_learning(stage: StageName, training: Training, found: OverfitCheck, goal: _Goal, findings: Findings) -> None:
    phase = training.task.phases[0]
    rate = phase.learning_rate * training.loop.optimizer.rate_factor(training.loop.batch_size)
    advice = f"lower {stage}.phases.{phase.name}.learning_rate (now {rate:.3g}) with --set"
    fault = f"loss or gradients were not finite numbers at step {found.failed_at} of the rehearsal; {advice}."
    finite = found.failed_at is None
    if not findings.check("first step that was not finite", found.failed_at, "none", finite, fault):
        return
    steps, fall = len(found.losses), _fall(found.losses)
    again = f"after {steps} steps on the same few examples"
    advice = f"{advice}, or raise it if the losses in preflight.json still fall."
    fault = f"{again} the loss is still {fall:.2f} times the first and should be at most {_FALL}; {advice}"
    findings.check("last losses, over the first", fall, f"at most {_FALL}", fall <= _FALL, fault)
    findings.record(f"{goal.name}, untrained", found.before)
    fault = f"{again} the {goal.name} is {found.after:.3f} and should be {goal.bound}; {advice}"
    findings.check(goal.name, found.after, goal.bound, goal.reached(found.after), fault)


def _fall(losses: list[float]) -> float:
    return float(np.mean(losses[-10:])) / losses[0]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "nothing"
