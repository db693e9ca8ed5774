"""The metrics of a run on the terminal, and its report: one HTML file from what the steps left in the run directory."""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

import alitok
from alitok.core.console import duration, print_table
from alitok.core.runlog import read_metrics
from alitok.report.html import write_html
from alitok.report.images import nearest_neighbours, reconstructions, samples_by_class
from alitok.report.model import Code, Curve, Curves, Facts, Report, Row, Section, Table
from alitok.run.measure import Measured

_SAMPLES_SHOWN = 10  # per class
_CLASSES_SHOWN = 24  # evenly spread; the file stays small with a thousand classes


class Metric(NamedTuple):
    """How a key of `metrics.json` is shown; `guide` is a rule of thumb for small images and short trainings."""

    label: str
    format: str
    meaning: str
    guide: str = ""


METRICS = {
    "seconds": Metric("training time", "", "all steps, over all starts, without loading Python's libraries"),
    "psnr_stage1": Metric(
        "PSNR, stage 1", "{:.1f} dB", "validation images through the causal decoder", "above 22: shapes clear"
    ),
    "psnr_stage2": Metric(
        "PSNR, stage 2", "{:.1f} dB", "validation images through the bidirectional decoder", "above 24: shapes clear"
    ),
    "codebook_use": Metric(
        "codebook usage", "{:.1%}", "fraction of the codebook that the training images use", "above 90 %: no dead codes"
    ),
    "codebook_perplexity": Metric("codebook perplexity", "{:.1f} codes", "effective number of codes in use"),
    "sample_accuracy": Metric(
        "sample accuracy",
        "{:.1%}",
        "samples that a classifier fitted on real images assigns to their class",
        "near the classifier's: samples show their class",
    ),
    "classifier_accuracy": Metric("classifier accuracy", "{:.1%}", "the same classifier on real validation images"),
    "nn_distance_samples": Metric(
        "distance to training images",
        "{:.3f} RMSE",
        "of samples to their nearest training image, mean",
        "far below the validation images': copies",
    ),
    "nn_distance_val": Metric(
        "the same, validation images", "{:.3f} RMSE", "of real validation images to their nearest training image, mean"
    ),
    "nn_distance_samples_min": Metric("smallest, samples", "{:.3f} RMSE", "the smallest of the samples' distances"),
    "nn_distance_val_min": Metric(
        "smallest, validation images", "{:.3f} RMSE", "the smallest of the validation images' distances"
    ),
    "samples": Metric("samples", "{:,.0f}", "generated images"),
    "peak_memory_gb": Metric("peak memory", "{:.2f} GB", "the most this process used"),
}


def _shown(metrics: Mapping[str, float | None]) -> Iterator[tuple[str, Metric, str]]:
    for name, value in metrics.items():
        metric = METRICS.get(name, Metric(name, "{:.4g}", ""))
        if value is None or not math.isfinite(value):
            yield name, metric, "not finite"
        else:
            yield name, metric, duration(value) if name == "seconds" else metric.format.format(value)


def print_metrics(console: Console, metrics: Mapping[str, float | None]) -> None:
    """A table of `metrics.json` with units and what is good."""
    rows = [(metric.label, value, metric.guide and f"({metric.guide})") for _, metric, value in _shown(metrics)]
    print_table(console, ("metric", "value", "guide"), rows, left=["guide"])


def write_report(
    root: Path,
    command: str,
    metrics: Mapping[str, float],
    measured: Measured,
    steps: Mapping[str, Mapping[str, Any]],
    device: torch.device,
) -> None:
    """Write `report.html` into the run directory, with what each finished step of `steps` reported.

    Raises:
        AlitokError: jinja2 or matplotlib is missing.
    """
    logs = {stage: read_metrics(root / stage / "metrics.jsonl") for stage in ("stage1", "stage2", "generator")}
    names = measured.class_names
    samples = {
        names[number]: measured.samples[measured.labels == number][:_SAMPLES_SHOWN]
        for number in range(0, len(names), math.ceil(len(names) / _CLASSES_SHOWN))
    }
    rows = [
        Row(metric.label, (value,), key=name, meaning="; ".join(filter(None, (metric.meaning, metric.guide))))
        for name, metric, value in _shown(metrics)
    ]
    rebuilt = {"stage 1": measured.stage1, "stage 2": measured.stage2}
    report = Report(
        title=f"alitok: {root.name}",
        summary="An image tokenizer, a generator over its codes, and images generated with both. The originals of all "
        "reconstructions are validation images, which no training step used.",
        command=command,
        sections=(
            Section("Metrics", (Table(("value",), tuple(rows)),)),
            Section("Reconstructions", (reconstructions(measured.originals, rebuilt),)),
            samples_by_class(samples),
            nearest_neighbours(measured.shown_samples, measured.nearest, measured.nearest_distances),
            Section("Curves", (Curves(_curves(logs)),)),
            Section("Training", (_trainings({name: steps[name] for name in logs}),)),
            Section("Configuration", (Code((root / "run.toml").read_text(encoding="utf-8"), folded="run.toml"),)),
            Section("Environment", (Facts(environment(device)),)),
        ),
    )
    write_html(root / "report.html", report)


def _trainings(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, report in reports.items():
        per_step = report["step_seconds"] / report["steps"]
        steps, parameters = (f"{report[key]:,}" for key in ("steps", "parameters"))
        rate = f"{report['batch_size'] / per_step:,.1f}"
        rows.append(Row(name, (steps, duration(report["seconds"]), f"{per_step:.3g}", rate, parameters)))
    return Table(("steps", "time", "seconds per step", "images per second", "parameters"), tuple(rows), "stage")


def _curves(logs: Mapping[str, list[dict[str, Any]]]) -> tuple[Curve, ...]:
    def line(stage: str, key: str) -> tuple[list[float], list[float]]:
        points = [(record["step"], record[key]) for record in logs[stage] if key in record]
        return [float(step) for step, _ in points], [math.nan if value is None else value for _, value in points]

    tokenizer = {f"{stage} {term}": line(stage, term) for stage in ("stage1", "stage2") for term in ("loss", "mse")}
    decibels = {stage: line(stage, "val_psnr") for stage in ("stage1", "stage2")}
    accuracy = {"train": line("generator", "accuracy"), "val": line("generator", "val_accuracy")}
    loss = {"train": line("generator", "loss"), "val": line("generator", "val_loss")}
    return (
        Curve("Tokenizer: loss", "step", "loss", tokenizer, log_y=True),
        Curve("Tokenizer: validation PSNR", "step", "dB", decibels),
        Curve("Generator: loss", "step", "nats per code", loss),
        Curve("Generator: accuracy", "step", "top-1 token accuracy", accuracy),
    )


def environment(device: torch.device) -> dict[str, str]:
    """Versions, machine, commit and time, for reports."""
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
    """The commit of this checkout; empty where alitok is installed or is a copy inside another project's."""
    checkout = Path(alitok.__file__).parents[2]
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f" ({found.stdout.strip()})" if found.returncode == 0 else ""
