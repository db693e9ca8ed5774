"""The report of a run: reads what the steps left in its directory and hands it to `alitok.run.report`."""

from __future__ import annotations

import math
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import alitok
from alitok.core.runlog import read_metrics
from alitok.report.curves import Curve
from alitok.report.sheets import ClassSamples, Neighbours, Reconstructions
from alitok.run.measure import Measured
from alitok.run.report import Report, Stage, write_report

_SAMPLES_SHOWN = 10  # per class
_CLASSES_SHOWN = 24  # evenly spread; the file stays small with a thousand classes

_MEANING = {
    "seconds": "wall clock of all steps, over all starts; loading Python's libraries comes on top",
    "psnr_stage1": "dB, validation images through the causal decoder",
    "psnr_stage2": "dB, validation images through the bidirectional decoder",
    "codebook_use": "share of the codebook that the training images use",
    "codebook_perplexity": "effective number of codes in use",
    "sample_accuracy": "share of samples that a classifier fitted on real images reads as the class asked for",
    "classifier_accuracy": "the same classifier on held-out real images",
    "nn_distance_samples": "root-mean-square pixel distance of a sample to its nearest training image, mean",
    "nn_distance_val": "the same for held-out real images: samples far below it would be copies",
    "nn_distance_samples_min": "the smallest of the samples' distances",
    "nn_distance_val_min": "the smallest of the validation images' distances",
    "samples": "images drawn",
    "peak_memory_gb": "GB, the most this process held",
}


def write_summary(
    root: Path,
    command: str,
    metrics: dict[str, float],
    measured: Measured,
    steps: dict[str, dict[str, Any]],
    device: torch.device,
) -> None:
    """Write `report.html` into the run's directory.

    Args:
        root: the run's directory.
        command: the exact command.
        metrics: what stands in `metrics.json`.
        measured: the images.
        steps: what each finished step reported.
        device: the run computed on.
    """
    records = {stage: read_metrics(root / stage / "metrics.jsonl") for stage in ("stage1", "stage2", "generator")}
    names = measured.class_names
    samples = [
        ClassSamples(names[number], measured.samples[measured.labels == number][:_SAMPLES_SHOWN])
        for number in range(0, len(names), math.ceil(len(names) / _CLASSES_SHOWN))
    ]
    report = Report(
        title=f"alitok: {root.name}",
        summary="Images to codes, codes to a generator, and back to images. All images on the left of a "
        "reconstruction are held out: no training step saw them.",
        command=command,
        configuration=(root / "run.toml").read_text(encoding="utf-8"),
        numbers=[(name, f"{value:.4g}", _MEANING.get(name, "")) for name, value in metrics.items()],
        stages=[_stage(name, steps[name]) for name in records],
        reconstructions=Reconstructions(
            measured.originals, measured.stage1, measured.stage2, "Held-out images and what the two decoders make"
        ),
        samples=samples,
        neighbours=Neighbours(measured.shown_samples, measured.nearest, measured.nearest_distances),
        curves=_curves(records),
        environment=environment(device),
    )
    write_report(root / "report.html", report)


def _stage(name: str, report: dict[str, Any]) -> Stage:
    per_step = report["step_seconds"] / report["steps"]
    speed = report["batch_size"] / per_step
    return Stage(name, report["steps"], report["seconds"], per_step, speed, report["parameters"])


def _curves(records: dict[str, list[dict[str, Any]]]) -> list[Curve]:
    def line(stage: str, key: str) -> tuple[list[float], list[float]]:
        points = [(record["step"], record[key]) for record in records[stage] if key in record]
        return [float(step) for step, _ in points], [math.nan if value is None else value for _, value in points]

    tokenizer = {f"{stage} {term}": line(stage, term) for stage in ("stage1", "stage2") for term in ("loss", "mse")}
    decibels = {stage: line(stage, "val_psnr") for stage in ("stage1", "stage2")}
    accuracy = {"training": line("generator", "accuracy"), "held out": line("generator", "val_accuracy")}
    loss = {"training": line("generator", "loss"), "held out": line("generator", "val_loss")}
    return [
        Curve("Tokenizer: loss", "step", "loss", tokenizer, log_y=True),
        Curve("Tokenizer: held-out PSNR", "step", "dB", decibels),
        Curve("Generator: loss", "step", "nats per code", loss),
        Curve("Generator: accuracy", "step", "share of codes guessed", accuracy),
    ]


def environment(device: torch.device) -> dict[str, str]:
    """Versions, machine and commit, for the report."""
    return {
        "alitok": alitok.__version__ + _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _commit() -> str:
    """The commit this code is checked out at, if it is a checkout of alitok and not a copy inside another's."""
    checkout = Path(alitok.__file__).parents[2]
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f" ({found.stdout.strip()})" if found.returncode == 0 else ""
